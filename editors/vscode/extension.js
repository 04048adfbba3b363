// The client of `dslc lsp`: finds the program, starts it, restarts it when its setting changes.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const vscode = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

/** The `dslc` program: the setting, else that of a workspace's `.venv`, else the one in PATH. */
function program() {
  const configured = vscode.workspace.getConfiguration("dslc").get("path");
  if (configured) {
    return configured;
  }
  const folder = process.platform === "win32" ? "Scripts" : "bin";
  const name = process.platform === "win32" ? "dslc.exe" : "dslc";
  for (const root of vscode.workspace.workspaceFolders ?? []) {
    const candidate = path.join(root.uri.fsPath, ".venv", folder, name);
    if (fs.existsSync(candidate)) {
      return candidate;
    }
  }
  return "dslc";
}

async function start() {
  const command = program();
  client = new LanguageClient(
    "dslc",
    "dl",
    { command, args: ["lsp"] },
    {
      documentSelector: [{ language: "dl" }],
      synchronize: { fileEvents: vscode.workspace.createFileSystemWatcher("**/*.dl") },
    },
  );
  try {
    await client.start();
  } catch (error) {
    client = undefined;
    const answer = await vscode.window.showErrorMessage(
      `The language server \`${command} lsp\` did not start (${error}). ` +
        "Install it by: pip install 'dslc[lsp]'",
      "Set its path",
    );
    if (answer) {
      vscode.commands.executeCommand("workbench.action.openSettings", "dslc.path");
    }
  }
}

async function restart() {
  await deactivate();
  await start();
}

async function activate(context) {
  context.subscriptions.push(
    vscode.commands.registerCommand("dslc.restart", restart),
    vscode.workspace.onDidChangeConfiguration((event) => {
      if (event.affectsConfiguration("dslc.path")) {
        restart();
      }
    }),
  );
  await start();
}

async function deactivate() {
  const running = client;
  client = undefined;
  if (running) {
    await running.stop();
  }
}

module.exports = { activate, deactivate };
