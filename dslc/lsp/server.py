"""The server: messages of the protocol to the functions of this package, and their results back.

Input: a client on stdio or TCP. Output: answers; diagnostics a moment after each change. A request
about a text is answered from that text, whatever is pending. A mistake of the server is told to the
client's log and answered with nothing: it never ends the server. Non-goals: what the answers are.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer

from dslc.lsp import (
    colours,
    formatting,
    hints,
    hover,
    navigation,
    outline,
    problems,
    repairs,
    signatures,
)
from dslc.lsp.completion import completions
from dslc.lsp.documents import Workspace, path_of
from dslc.lsp.positions import Lines, span_range
from dslc.semantics.analysis import Analysis

# Seconds without a change before diagnostics follow; a file that takes longer waits longer.
LEAST_DELAY, MOST_DELAY = 0.08, 1.0
REQUEST_FAILED = -32803

Result = TypeVar("Result")


class Server(LanguageServer):
    """The language server and what it knows of the client's files."""

    def __init__(self, version: str) -> None:
        super().__init__("dslc", version)
        self.files = Workspace()
        self.timers: dict[str, asyncio.TimerHandle] = {}
        self.delay = LEAST_DELAY

    def at(self, params: Any) -> tuple[Analysis, Lines, int]:
        """The analysis, the lines and the offset that a request is about."""
        uri = params.text_document.uri
        lines = self.files.documents[uri].lines
        return self.files.analysis(uri), lines, lines.offset(params.position)

    def whole(self, params: Any) -> tuple[Analysis, Lines]:
        """The analysis and the lines of the document that a request is about."""
        uri = params.text_document.uri
        return self.files.analysis(uri), self.files.documents[uri].lines

    # --- diagnostics --------------------------------------------------------------------------

    def soon(self, uri: str) -> None:
        """Publish a document's diagnostics when it has not changed for a moment."""
        timer = self.timers.pop(uri, None)
        if timer is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self.timers[uri] = loop.call_later(self.delay, guarded(self, self.publish), uri)

    def publish(self, uri: str) -> None:
        """Publish the diagnostics of a document and of the open ones that import it."""
        self.timers.pop(uri, None)
        if uri not in self.files.documents:
            return
        path = self.files.documents[uri].path
        before = dict(self.files.analyses)
        began = time.monotonic()
        self.publish_one(uri)
        self.delay = min(max(time.monotonic() - began, LEAST_DELAY), MOST_DELAY)
        for document in list(self.files.documents.values()):
            imports = path in self.files.analysis(document.uri).files
            if document.uri != uri and (imports or document.path not in before):
                self.publish_one(document.uri)

    def publish_one(self, uri: str) -> None:
        document = self.files.documents[uri]
        found = problems.published(self.files, self.files.analysis(uri), document.lines)
        self.text_document_publish_diagnostics(
            types.PublishDiagnosticsParams(uri, found, document.version)
        )


def guarded(server: Server, function: Callable[..., Result]) -> Callable[..., Result | None]:
    """The function, with what nobody foresaw told to the client's log."""

    @wraps(function)
    def run(*args: Any) -> Result | None:
        try:
            return function(*args)
        except JsonRpcException:
            raise
        except Exception:
            text = f"This is a bug in dslc:\n{traceback.format_exc()}"
            server.window_log_message(types.LogMessageParams(types.MessageType.Error, text))
            return None

    return run


def make_server(version: str) -> Server:
    """A server with all its features, not started."""
    server = Server(version)
    for method, (options, handler) in _FEATURES.items():
        # pygls hands in the parameters alone; the server is bound here.
        run = guarded(server, _bound(server, handler))
        server.feature(method, options)(run) if options else server.feature(method)(run)
    return server


def _bound(server: Server, handler: Callable[[Server, Any], Any]) -> Callable[[Any], Any]:
    def run(params: Any) -> Any:
        return handler(server, params)

    return run


# --- documents ----------------------------------------------------------------------------------


def _initialized(server: Server, params: types.InitializedParams) -> None:
    encoding = server.server_capabilities.position_encoding
    if encoding is not None:
        server.files.unit = str(getattr(encoding, "value", encoding))
    server.files.folders = [path_of(uri) for uri in server.workspace.folders]


def _opened(server: Server, params: types.DidOpenTextDocumentParams) -> None:
    document = params.text_document
    server.files.open(document.uri, document.text, document.version)
    server.publish(document.uri)


def _changed(server: Server, params: types.DidChangeTextDocumentParams) -> None:
    document = params.text_document
    server.files.change(document.uri, params.content_changes, document.version)
    server.soon(document.uri)


def _closed(server: Server, params: types.DidCloseTextDocumentParams) -> None:
    uri = params.text_document.uri
    path = server.files.documents[uri].path
    importers = server.files.dependents(path)
    server.files.close(uri)
    server.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, []))
    _refresh(server, importers)


def _files_changed(server: Server, params: types.DidChangeWatchedFilesParams) -> None:
    importers: list[str] = []
    for change in params.changes:
        path = path_of(change.uri)
        importers += server.files.dependents(path)
        server.files.forget(path)
    _refresh(server, importers)


def _refresh(server: Server, paths: list[str]) -> None:
    for document in list(server.files.documents.values()):
        if document.path in paths:
            server.publish_one(document.uri)


# --- features -----------------------------------------------------------------------------------


def _hover(server: Server, params: types.HoverParams) -> types.Hover | None:
    analysis, lines, offset = server.at(params)
    found = hover.hover(analysis, offset)
    if found is None:
        return None
    text = types.MarkupContent(types.MarkupKind.Markdown, found[0])
    return types.Hover(text, span_range(lines, found[1]))


def _completion(server: Server, params: types.CompletionParams) -> types.CompletionList:
    analysis, _, offset = server.at(params)
    return types.CompletionList(False, completions(server.files, analysis, offset))


def _signature(server: Server, params: types.SignatureHelpParams) -> types.SignatureHelp | None:
    analysis, _, offset = server.at(params)
    return signatures.signature_help(analysis, offset)


def _definition(server: Server, params: types.DefinitionParams) -> types.Location | None:
    _, _, offset = server.at(params)
    return navigation.definition(server.files, params.text_document.uri, offset)


def _references(server: Server, params: types.ReferenceParams) -> list[types.Location]:
    _, _, offset = server.at(params)
    declaration = params.context.include_declaration
    uri = params.text_document.uri
    return navigation.references(server.files, uri, offset, declaration=declaration)


def _highlight(
    server: Server, params: types.DocumentHighlightParams
) -> list[types.DocumentHighlight]:
    analysis, lines, offset = server.at(params)
    kinds = (types.DocumentHighlightKind.Read, types.DocumentHighlightKind.Write)
    return [
        types.DocumentHighlight(span_range(lines, o.span), kinds[o.binds])
        for o in navigation.highlights(analysis, offset)
    ]


def _prepare_rename(server: Server, params: types.PrepareRenameParams) -> types.Range:
    _, lines, offset = server.at(params)
    try:
        found = navigation.renamable(server.files, params.text_document.uri, offset)
    except navigation.RenameError as error:
        raise JsonRpcException(str(error), REQUEST_FAILED) from None
    return span_range(lines, found.span)


def _rename(server: Server, params: types.RenameParams) -> types.WorkspaceEdit:
    _, _, offset = server.at(params)
    uri = params.text_document.uri
    try:
        return navigation.rename(server.files, uri, offset, params.new_name)
    except navigation.RenameError as error:
        raise JsonRpcException(str(error), REQUEST_FAILED) from None


def _symbols(server: Server, params: types.DocumentSymbolParams) -> list[types.DocumentSymbol]:
    return outline.document_symbols(*server.whole(params))


def _workspace_symbols(
    server: Server, params: types.WorkspaceSymbolParams
) -> list[types.WorkspaceSymbol]:
    return list(outline.workspace_symbols(server.files, params.query))


def _folding(server: Server, params: types.FoldingRangeParams) -> list[types.FoldingRange]:
    return list(outline.folding_ranges(server.whole(params)[0]))


def _hints(server: Server, params: types.InlayHintParams) -> list[types.InlayHint]:
    analysis, lines = server.whole(params)
    start, end = lines.offset(params.range.start), lines.offset(params.range.end)
    return list(hints.inlay_hints(analysis, lines, start, end))


def _actions(server: Server, params: types.CodeActionParams) -> list[types.CodeAction]:
    analysis, lines = server.whole(params)
    start, end = lines.offset(params.range.start), lines.offset(params.range.end)
    return list(repairs.actions(analysis, params.text_document.uri, lines, start, end))


def _formatting(server: Server, params: types.DocumentFormattingParams) -> list[types.TextEdit]:
    analysis, lines = server.whole(params)
    return formatting.format_document(analysis.source, lines)


def _range_formatting(
    server: Server, params: types.DocumentRangeFormattingParams
) -> list[types.TextEdit]:
    analysis, lines = server.whole(params)
    start, end = lines.offset(params.range.start), lines.offset(params.range.end)
    return formatting.format_part(analysis.source, lines, start, end)


def _tokens(server: Server, params: types.SemanticTokensParams) -> types.SemanticTokens:
    return colours.semantic_tokens(*server.whole(params))


_FEATURES: dict[str, tuple[Any, Callable[[Server, Any], Any]]] = {
    types.INITIALIZED: (None, _initialized),
    types.TEXT_DOCUMENT_DID_OPEN: (None, _opened),
    types.TEXT_DOCUMENT_DID_CHANGE: (None, _changed),
    types.TEXT_DOCUMENT_DID_CLOSE: (None, _closed),
    types.WORKSPACE_DID_CHANGE_WATCHED_FILES: (None, _files_changed),
    types.TEXT_DOCUMENT_HOVER: (None, _hover),
    types.TEXT_DOCUMENT_COMPLETION: (
        types.CompletionOptions(trigger_characters=[".", "[", "(", '"', "/"]),
        _completion,
    ),
    types.TEXT_DOCUMENT_SIGNATURE_HELP: (
        types.SignatureHelpOptions(trigger_characters=["[", "(", ","]),
        _signature,
    ),
    types.TEXT_DOCUMENT_DEFINITION: (None, _definition),
    types.TEXT_DOCUMENT_REFERENCES: (None, _references),
    types.TEXT_DOCUMENT_DOCUMENT_HIGHLIGHT: (None, _highlight),
    types.TEXT_DOCUMENT_PREPARE_RENAME: (None, _prepare_rename),
    types.TEXT_DOCUMENT_RENAME: (types.RenameOptions(prepare_provider=True), _rename),
    types.TEXT_DOCUMENT_DOCUMENT_SYMBOL: (None, _symbols),
    types.WORKSPACE_SYMBOL: (None, _workspace_symbols),
    types.TEXT_DOCUMENT_FOLDING_RANGE: (None, _folding),
    types.TEXT_DOCUMENT_INLAY_HINT: (None, _hints),
    types.TEXT_DOCUMENT_CODE_ACTION: (
        types.CodeActionOptions(code_action_kinds=[types.CodeActionKind.QuickFix]),
        _actions,
    ),
    types.TEXT_DOCUMENT_FORMATTING: (None, _formatting),
    types.TEXT_DOCUMENT_RANGE_FORMATTING: (None, _range_formatting),
    types.TEXT_DOCUMENT_SEMANTIC_TOKENS_FULL: (colours.LEGEND, _tokens),
}
