"""Each feature of the language server, driven by a client over stdio."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pytest_lsp import ClientServerConfig, client_capabilities

from tests.lsp.session import Session, edited

pytestmark = pytest.mark.asyncio(loop_scope="module")

BLOCKS = """\
## A stage: one dense layer.
layer stage[width, act: fn = relu](x: float[N, C]) -> float[N, width] {
    return x |> fc: dense[width] |> act
}
"""
MAIN = """\
from "blocks.dl" import stage

const SIZE = 8

model Main[classes=3](x: f32[N, 4]) -> f32[N, classes] {
    a = x |> stage[SIZE]
    b = a
        |> stage[SIZE, act=tanh]
        |> norm: batch_norm[]
    _emoji = "\N{GRINNING FACE}"; total = b + a
    return total |> out: dense[classes]
}

train Main {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.1]
    freeze norm.*
}
""".replace('"; total', '"\n    total')


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Session]:
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "blocks.dl").write_text(BLOCKS, encoding="utf-8")
    config = ClientServerConfig(server_command=[sys.executable, "-m", "dslc", "lsp"])
    client = await config.start()
    await client.initialize_session(
        types.InitializeParams(
            capabilities=client_capabilities("visual-studio-code"),
            workspace_folders=[types.WorkspaceFolder(folder.as_uri(), "work")],
        )
    )
    made = Session(client, folder)
    made.texts["blocks.dl"] = BLOCKS  # not open, but places are looked for in it
    assert await made.open("main.dl", MAIN) == []
    yield made
    await client.shutdown_session()
    await client.stop()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def as_it_was(session: Session) -> AsyncIterator[None]:
    """Whatever a test leaves, the next one finds the same texts."""
    yield
    await session.reset("blocks.dl", BLOCKS)
    await session.reset("main.dl", MAIN)


async def hover(session: Session, words: str, part: str) -> str:
    found = await session.client.text_document_hover_async(
        types.HoverParams(**session.at("main.dl", words, part))
    )
    assert found is not None
    assert isinstance(found.contents, types.MarkupContent)
    return found.contents.value


async def test_hover(session: Session) -> None:
    assert await hover(session, "b = a", "b") == "```dl\nb: f32[N, 8]\n```"
    assert "A stage: one dense layer." in await hover(session, "stage[SIZE]", "stage")
    assert "here `stage[width=8, act=tanh]`" in await hover(session, "stage[SIZE, act", "stage")
    assert "arXiv:1502.03167" in await hover(session, "batch_norm[]", "batch")
    assert await hover(session, "b + a", "+") == "```dl\nf32[N, 8]\n```"


async def test_diagnostics_follow_the_text(session: Session) -> None:
    found = await session.replace("main.dl", "b + a", "b + missing")
    assert [d.code for d in found] == ["E0101"]
    assert found[0].range.start == session.position("main.dl", "b + missing", "missing")
    found = await session.replace("main.dl", "b + missing", "b + x")
    assert [d.code for d in found] == ["E0203"]
    assert found[0].related_information
    assert session.text_at(found[0].related_information[0].location)
    assert found[0].code_description is not None
    assert found[0].code_description.href.endswith("/dslc/explain/E0203.md")
    assert await session.replace("main.dl", "b + x", "b + a") == []


async def test_text_that_is_half_typed(session: Session) -> None:
    found = await session.replace("main.dl", "total = b + a", "total = b +")
    assert {str(d.code)[:3] for d in found} == {"E00"}
    assert await session.replace("main.dl", "total = b +", "total = b + a") == []


async def test_an_edited_import_is_seen_by_its_importers(session: Session) -> None:
    assert await session.open("blocks.dl", BLOCKS) == []
    uri = session.uri("main.dl")
    session.client.diagnostics.pop(uri, None)
    await session.replace("blocks.dl", "layer stage[width", "layer stages[width")
    assert [d.code for d in await session.diagnostics("main.dl")] == ["E0402"]
    session.client.diagnostics.pop(uri, None)
    await session.replace("blocks.dl", "layer stages[width", "layer stage[width")
    assert await session.diagnostics("main.dl") == []


async def test_a_file_that_changes_on_disk(session: Session) -> None:
    other = session.folder / "other.dl"
    other.write_text("fn half(x: f32[N]) -> f32[N] { return x / 2 }\n", encoding="utf-8")
    user = 'from "other.dl" import half\n\nfn f(x: f32[N]) -> f32[N] { return half(x) }\n'
    assert await session.open("user.dl", user) == []
    other.write_text("fn half(x: i64[N]) -> i64[N] { return x // 2 }\n", encoding="utf-8")
    session.client.diagnostics.pop(session.uri("user.dl"))
    event = types.FileEvent(other.as_uri(), types.FileChangeType.Changed)
    session.client.workspace_did_change_watched_files(types.DidChangeWatchedFilesParams([event]))
    assert [d.code for d in await session.diagnostics("user.dl")] == ["E0201"]
    session.close("user.dl")


async def test_completion(session: Session) -> None:
    async def labels(words: str) -> list[str]:
        params = types.CompletionParams(**session.at("main.dl", words))
        found = await session.client.text_document_completion_async(params)
        assert isinstance(found, types.CompletionList)
        return [item.label for item in sorted(found.items, key=lambda i: str(i.sort_text))]

    await session.replace("main.dl", "    return total", "    c = a.\n    return total")
    assert await labels("c = a.") == ["T"]
    await session.replace("main.dl", "c = a.", "c = stage[")
    assert (await labels("c = stage["))[:3] == ["width=", "act=", "N"]
    await session.replace("main.dl", "    c = stage[\n", "")
    assert {"param", "return", "if"} <= set(await labels("total = b + a\n    "))


async def test_signature_help(session: Session) -> None:
    await session.replace("main.dl", "stage[SIZE, act=tanh]", "stage[SIZE, act=tanh](b, ")
    for words, active in (("|> stage[SIZE,", 1), ("|> stage[", 0), ("act=tanh](b, ", 2)):
        found = await session.client.text_document_signature_help_async(
            types.SignatureHelpParams(**session.at("main.dl", words))
        )
        assert found is not None
        assert found.signatures[0].label.startswith("layer stage[width, act: fn = relu](x:")
        assert found.active_parameter == active
    await session.replace("main.dl", "stage[SIZE, act=tanh](b, ", "stage[SIZE, act=tanh]")


async def test_definition(session: Session) -> None:
    async def definition(words: str, part: str) -> types.Location:
        found = await session.client.text_document_definition_async(
            types.DefinitionParams(**session.at("main.dl", words, part))
        )
        assert isinstance(found, types.Location)
        return found

    assert session.text_at(await definition("b + a", "b")).startswith("b = a")
    stage = await definition("stage[SIZE]", "stage")
    assert session.text_at(stage).startswith("stage[width")
    assert session.text_at(await definition('"blocks.dl"', "blocks")) == BLOCKS.split("\n")[0]
    library = await definition("batch_norm[]", "batch_norm")
    assert "/dslc/std/" in library.uri
    path = Path(library.uri.removeprefix("file://"))
    line = path.read_text(encoding="utf-8").split("\n")[library.range.start.line]
    assert line.startswith("layer batch_norm[")


async def test_references(session: Session) -> None:
    found = await session.client.text_document_references_async(
        types.ReferenceParams(
            context=types.ReferenceContext(include_declaration=True),
            **session.at("main.dl", "stage[SIZE]", "stage"),
        )
    )
    assert found is not None
    files = [location.uri.rpartition("/")[2] for location in found]
    assert sorted(files) == ["blocks.dl", "main.dl", "main.dl", "main.dl"]
    found = await session.client.text_document_document_highlight_async(
        types.DocumentHighlightParams(**session.at("main.dl", "norm: batch", "norm"))
    )
    assert found is not None
    assert len(found) == 2  # its name, and `freeze norm.*`


async def test_rename_across_files(session: Session) -> None:
    place = session.at("main.dl", "stage[SIZE]", "stage")
    range_ = await session.client.text_document_prepare_rename_async(
        types.PrepareRenameParams(**place)
    )
    assert isinstance(range_, types.Range)
    edit = await session.client.text_document_rename_async(
        types.RenameParams(new_name="step", **place)
    )
    assert edit is not None
    assert edit.changes is not None
    counts = {uri.rpartition("/")[2]: len(edits) for uri, edits in edit.changes.items()}
    assert counts == {"main.dl": 3, "blocks.dl": 1}
    await session.open("blocks.dl", BLOCKS)
    width = session.at("blocks.dl", "dense[width]", "width")
    edit = await session.client.text_document_rename_async(
        types.RenameParams(new_name="units", **width)
    )
    assert edit is not None
    assert edit.changes is not None
    assert [len(edits) for edits in edit.changes.values()] == [3]


@pytest.mark.parametrize(
    ("words", "part", "new", "why"),
    [
        ("stage[SIZE]", "stage", "2b", "no name"),
        ("stage[SIZE]", "stage", "for", "a keyword"),
        ("b + a", "b", "a", "there is a `a` already"),
        ("b = a", "b", "batch_norm", "there is a `batch_norm` already"),
        ("const SIZE", "SIZE", "cross_entropy", "there is a `cross_entropy` already"),
        ("batch_norm[]", "batch", "mine", "a name of the library"),
        ("act=tanh", "tanh", "mine", "a name of the language"),
        ("return total", "return", "mine", "no name here"),
    ],
)
async def test_renames_that_are_refused(
    session: Session, words: str, part: str, new: str, why: str
) -> None:
    with pytest.raises(JsonRpcException, match=why):
        await session.client.text_document_rename_async(
            types.RenameParams(new_name=new, **session.at("main.dl", words, part))
        )


async def test_symbols(session: Session) -> None:
    found = await session.client.text_document_document_symbol_async(
        types.DocumentSymbolParams(session.document("main.dl"))
    )
    assert found is not None
    shown = [(s.name, [c.name for c in s.children or ()]) for s in found]
    assert shown == [("SIZE", []), ("Main", ["norm", "out"]), ("train Main", [])]
    found = await session.client.workspace_symbol_async(types.WorkspaceSymbolParams("stg"))
    assert [s.name for s in found or ()] == ["stage"]


async def test_inlay_hints(session: Session) -> None:
    whole = types.Range(types.Position(0, 0), types.Position(100, 0))
    found = await session.client.text_document_inlay_hint_async(
        types.InlayHintParams(session.document("main.dl"), whole)
    )
    assert found is not None
    lines = session.texts["main.dl"].split("\n")
    shown = [(lines[h.position.line][: h.position.character].strip(), h.label) for h in found]
    assert shown == [
        ("a", ": f32[N, 8]"),
        ("b", ": f32[N, 8]"),
        ("|> stage[SIZE, act=tanh]", "f32[N, 8]"),
        ("|> norm: batch_norm[]", "f32[N, 8]"),
        ("total", ": f32[N, 8]"),
    ]


async def test_code_actions(session: Session) -> None:
    await session.replace("main.dl", "b + a", "b + clases")
    found = await session.client.text_document_code_action_async(
        types.CodeActionParams(
            session.document("main.dl"),
            types.Range(
                session.position("main.dl", "b + "), session.position("main.dl", "b + cla")
            ),
            types.CodeActionContext([]),
        )
    )
    assert found is not None
    assert [action.title for action in found] == ["Write `classes`"]
    await session.replace("main.dl", "b + clases", "b + a")


async def test_formatting(session: Session) -> None:
    ugly = MAIN.replace("b + a", "b+a").replace("[classes]", "[ classes ]")
    await session.replace("main.dl", MAIN, ugly)
    options = types.FormattingOptions(4, True)
    document = session.document("main.dl")
    found = await session.client.text_document_formatting_async(
        types.DocumentFormattingParams(document, options)
    )
    assert found is not None
    assert len(found) == 1
    assert edited(ugly, found) == MAIN
    start = session.position("main.dl", "total = ")
    found = await session.client.text_document_range_formatting_async(
        types.DocumentRangeFormattingParams(document, types.Range(start, start), options)
    )
    assert edited(ugly, found or ()) == MAIN.replace("[classes]", "[ classes ]")


async def test_semantic_tokens_and_folding(session: Session) -> None:
    tokens = await session.client.text_document_semantic_tokens_full_async(
        types.SemanticTokensParams(session.document("main.dl"))
    )
    assert tokens is not None
    assert len(tokens.data) % 5 == 0
    assert len(tokens.data) > 150
    folds = await session.client.text_document_folding_range_async(
        types.FoldingRangeParams(session.document("main.dl"))
    )
    lines = session.texts["main.dl"].split("\n")
    starts = {lines[fold.start_line].partition(" ")[0] for fold in folds or ()}
    assert starts == {"model", "train"}


async def test_a_mistake_of_the_server_does_not_end_it(session: Session) -> None:
    stray = types.TextDocumentIdentifier(session.uri("never_opened.dl"))
    found = await session.client.text_document_hover_async(
        types.HoverParams(stray, types.Position(0, 0))
    )
    assert found is None
    assert "This is a bug in dslc" in session.client.log_messages[-1].message
    assert "b: f32" in await hover(session, "b = a", "b")


async def test_columns_in_the_unit_that_the_client_wants(tmp_path: Path) -> None:
    config = ClientServerConfig(server_command=[sys.executable, "-m", "dslc", "lsp"])
    client = await config.start()
    capabilities = client_capabilities("visual-studio-code")
    capabilities.general = types.GeneralClientCapabilities(
        position_encodings=[types.PositionEncodingKind.Utf8, types.PositionEncodingKind.Utf16]
    )
    await client.initialize_session(types.InitializeParams(capabilities=capabilities))
    text = 'fn f(x: f32[3]) -> f32[3] {\n    return g("\N{GRINNING FACE}", yy)\n}\n'
    found = await Session(client, tmp_path).open("e.dl", text)
    assert [d.range.start.character for d in found] == [11, 21]
    await client.shutdown_session()
    await client.stop()
