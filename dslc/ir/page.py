"""Pictures as one HTML page that needs nothing else: no network, no files beside it.

Input: a title and pictures. Output: text. A box shows its label and types, a line the type of what
flows along it when the mouse is on it; a click on a box tells all about it and marks its lines; the
field above finds boxes by any word of what is told. Non-goals: where boxes stand (`picture.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from dslc.ir.picture import HEIGHT, WIDTH, Box, Picture, Point, placed

BOX_WIDTH, BOX_HEIGHT = 164, 40
LETTERS = 23  # of a line in a box


def page(title: str, pictures: Iterable[Picture]) -> str:
    """The page, of one section for each picture."""
    sections = [_section(i, picture) for i, picture in enumerate(pictures)]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>\n"
        '<input id="find" type="search" placeholder="find a box" aria-label="find a box">\n'
        '<output id="found"></output>\n'
        '<label>size <input id="size" type="range" min="10" max="150" value="100"></label>\n'
        '</header>\n<pre id="told">A click on a box tells about it.</pre>\n'
        f"<main>\n{''.join(sections)}</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(number: int, picture: Picture) -> str:
    at = placed(picture.boxes)
    width = max((x for x, _ in at), default=0) + WIDTH / 2
    height = max((y for _, y in at), default=0) + HEIGHT / 2
    drawn = "".join([*_lines(number, picture, at), *_boxes(number, picture, at)])
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return (
        f"<section>\n<h2>{escape(picture.title)}</h2>\n"
        f'<div class="scroll"><svg {size}>\n{drawn}</svg></div>\n</section>\n'
    )


def _lines(number: int, picture: Picture, at: list[Point]) -> Iterator[str]:
    for i, box in enumerate(picture.boxes):
        for other, flows in box.needs:
            (x, y), (to_x, to_y) = at[other], at[i]
            y, to_y = y + BOX_HEIGHT / 2, to_y - BOX_HEIGHT / 2
            middle = (y + to_y) / 2
            way = f"M{x:.0f} {y:.0f}C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f}"
            way += f" {to_x:.0f} {to_y:.0f}"
            yield (
                f'<path d="{way}" data-ends="b{number}-{other} b{number}-{i}">'
                f"<title>{escape(flows)}</title></path>\n"
            )


def _boxes(number: int, picture: Picture, at: list[Point]) -> Iterator[str]:
    for i, (box, (x, y)) in enumerate(zip(picture.boxes, at)):
        yield (
            f'<g id="b{number}-{i}" class="{escape(box.kind)}" tabindex="0"'
            f' transform="translate({x:.0f} {y:.0f})">'
            f"<title>{escape(_all(box))}</title>"
            f'<rect x="{-BOX_WIDTH / 2:.0f}" y="{-BOX_HEIGHT / 2:.0f}"'
            f' width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5"/>'
            f'<text y="-3">{escape(_end(box.label))}</text>'
            f'<text class="note" y="13">{escape(_short(box.note))}</text></g>\n'
        )


def _all(box: Box) -> str:
    return box.detail if box.label in box.detail else f"{box.label}\n{box.detail}"


def _end(line: str) -> str:
    """Of a long name the last parts, which tell most."""
    return line if len(line) <= LETTERS else f"…{line[1 - LETTERS :]}"


def _short(line: str) -> str:
    return line if len(line) <= LETTERS else f"{line[: LETTERS - 1]}…"


STYLE = """
body { margin: 0 24rem 0 0; font: 14px system-ui, sans-serif; color: #222; background: #fff; }
header { position: sticky; top: 0; z-index: 1; display: flex; gap: 1rem; align-items: center;
  padding: .5rem 1rem; background: #f4f4f2; border-bottom: 1px solid #ccc; }
h1, h2 { font-size: 1rem; margin: .5rem 0; } h2 { padding: 0 1rem; }
#told { position: fixed; top: 0; right: 0; bottom: 0; width: 24rem; margin: 0; padding: 1rem;
  box-sizing: border-box; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  background: #fafaf8; border-left: 1px solid #ccc; font-size: 12px; z-index: 2; }
.scroll { overflow: auto; padding: 0 1rem; }
path { fill: none; stroke: #aaa; stroke-width: 1.5; }
path:hover, path.near { stroke: #c40; stroke-width: 2.5; }
rect { fill: #fff; stroke: #777; }
text { text-anchor: middle; font-size: 12px; pointer-events: none; }
text.note { font-size: 10px; fill: #666; }
g { cursor: pointer; outline: none; }
g.input rect, g.result rect { fill: #dcebfa; } g.weight rect { fill: #e5f3dc; }
g.state rect, g.prepared rect { fill: #f3f3d6; } g.constant rect { fill: #eee; }
g.contract rect, g.attention rect { fill: #fbe7d9; } g.scan rect { fill: #eadcf7; }
g.found rect { stroke: #06c; stroke-width: 3; } g.chosen rect { stroke: #c40; stroke-width: 3; }
"""
SCRIPT = """
const all = (what) => document.querySelectorAll(what);
const clear = (name) => all('.' + name).forEach((one) => one.classList.remove(name));
const text = (box) => box.querySelector('title').textContent;
function choose(box) {
  clear('chosen'); clear('near');
  box.classList.add('chosen');
  all(`path[data-ends~="${box.id}"]`).forEach((path) => path.classList.add('near'));
  document.getElementById('told').textContent = text(box);
}
let found = [], next = 0;
const find = document.getElementById('find');
find.addEventListener('input', () => {
  clear('found');
  const word = find.value.toLowerCase();
  found = word ? [...all('g')].filter((box) => text(box).toLowerCase().includes(word)) : [];
  found.forEach((box) => box.classList.add('found'));
  document.getElementById('found').textContent = word ? `${found.length} found` : '';
  next = 0;
});
find.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || !found.length) return;
  const box = found[next++ % found.length];
  box.scrollIntoView({ block: 'center', inline: 'center' });
  choose(box);
});
all('g').forEach((box) => {
  box.addEventListener('click', () => choose(box));
  box.addEventListener('keydown', (event) => { if (event.key === 'Enter') choose(box); });
});
all('.scroll').forEach((one) => { one.scrollLeft = (one.scrollWidth - one.clientWidth) / 2; });
document.getElementById('size').addEventListener('input', (event) => {
  all('svg').forEach((svg) => {
    const [, , width, height] = svg.getAttribute('viewBox').split(' ');
    svg.setAttribute('width', width * event.target.value / 100);
    svg.setAttribute('height', height * event.target.value / 100);
  });
});
"""
