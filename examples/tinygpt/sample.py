"""Goes on with a text, token by token as they come. Needs `dslc_runtime` alone, no compiler."""

import argparse
import codecs
from pathlib import Path

from bpe import BPE

import dslc_runtime

RUN = Path(__file__).parent / "run"


def main() -> None:
    parser = argparse.ArgumentParser(description="go on with a text")
    parser.add_argument("text", nargs="?", default="The ")
    parser.add_argument("--model", type=Path, default=RUN / "tinygpt.dlc")
    parser.add_argument("--tokens", type=Path, default=RUN / "tokens.json")
    parser.add_argument("--count", type=int, default=300, help="of tokens")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    model, bpe = dslc_runtime.load(options.model), BPE.load(options.tokens)
    print(options.text, end="")
    stream = model.generate(
        bpe.encode(options.text),
        max_tokens=options.count,
        temperature=options.temperature,
        top_k=options.top_k,
        seed=options.seed,
        slide=64,
    )
    whole = codecs.getincrementaldecoder("utf-8")("replace")  # a letter may lie across two tokens
    for token in stream:
        print(whole.decode(bpe.bytes[token]), end="", flush=True)
    print()


if __name__ == "__main__":
    main()
