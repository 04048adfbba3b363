"""BERT, GPT-2, Llama, ViT and T5 in plain PyTorch, written from their papers; names and layouts of
their weights are those of the files that Hugging Face has of them."""

from __future__ import annotations

from typing import Any

from library.against_torch import torch
from library.transformer_modules import GPT2, Llama, RelativeBias

nn, F = torch.nn, torch.nn.functional


def tree(parts: dict[str, Any]) -> Any:
    """Modules under names that nest."""
    return nn.ModuleDict({n: tree(p) if isinstance(p, dict) else p for n, p in parts.items()})


def repeated(count: int, make: Any) -> Any:
    return nn.ModuleList(make() for _ in range(count))


def heads_apart(x: Any, heads: int) -> Any:
    n, t, _ = x.shape
    return x.view(n, t, heads, -1).transpose(1, 2)


def attend(q: Any, k: Any, v: Any, heads: int, **options: Any) -> Any:
    q, k, v = (heads_apart(x, heads) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2)


def query_key_value(width: int) -> dict[str, Any]:
    return {name: nn.Linear(width, width) for name in ("query", "key", "value")}


class BertNet(nn.Module):  # type: ignore[misc,name-defined]
    """BertForPreTraining."""

    def __init__(self, V: int, D: int, layers: int, heads: int, context: int) -> None:
        super().__init__()

        def norm() -> Any:
            return nn.LayerNorm(D, 1e-12)

        def layer() -> Any:
            output = {"dense": nn.Linear(D, D), "LayerNorm": norm()}
            return tree({
                "attention": {"self": query_key_value(D), "output": output},
                "intermediate": {"dense": nn.Linear(D, 4 * D)},
                "output": {"dense": nn.Linear(4 * D, D), "LayerNorm": norm()},
            })  # fmt: skip

        self.heads = heads
        self.bert = tree({
            "embeddings": {
                "word_embeddings": nn.Embedding(V, D, padding_idx=0),
                "position_embeddings": nn.Embedding(context, D),
                "token_type_embeddings": nn.Embedding(2, D),
                "LayerNorm": norm(),
            },
            "encoder": {"layer": repeated(layers, layer)},
            "pooler": {"dense": nn.Linear(D, D)},
        })  # fmt: skip
        self.cls = tree({
            "predictions": {"transform": {"dense": nn.Linear(D, D), "LayerNorm": norm()}},
            "seq_relationship": nn.Linear(D, 2),
        })  # fmt: skip
        self.cls["predictions"].register_parameter("bias", nn.Parameter(torch.zeros(V)))

    def encode(self, words: Any, segment: Any, kept: Any) -> tuple[Any, Any]:
        table = self.bert["embeddings"]
        x = table["word_embeddings"](words) + table["token_type_embeddings"](segment)
        x = table["LayerNorm"](x + table["position_embeddings"].weight[: words.shape[1]])
        for layer in self.bert["encoder"]["layer"]:
            look, out = layer["attention"]["self"], layer["attention"]["output"]
            parts = (look[name](x) for name in ("query", "key", "value"))
            y = attend(*parts, self.heads, attn_mask=kept[:, None, None])
            x = out["LayerNorm"](x + out["dense"](y))
            y = F.gelu(layer["intermediate"]["dense"](x))
            x = layer["output"]["LayerNorm"](x + layer["output"]["dense"](y))
        return x, torch.tanh(self.bert["pooler"]["dense"](x[:, 0]))

    def forward(self, words: Any, segment: Any, kept: Any) -> tuple[Any, Any]:
        x, pooled = self.encode(words, segment, kept)
        predict = self.cls["predictions"]
        y = predict["transform"]["LayerNorm"](F.gelu(predict["transform"]["dense"](x)))
        scores = y @ self.bert["embeddings"]["word_embeddings"].weight.T + predict.bias
        return scores, self.cls["seq_relationship"](pooled)


class GPT2Net(nn.Module):  # type: ignore[misc,name-defined]
    """GPT2LMHeadModel, with the names of GPT2Model."""

    def __init__(self, V: int, D: int, layers: int, heads: int, context: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, D), nn.Embedding(context, D)
        self.h = repeated(layers, lambda: GPT2(D, heads))
        self.ln_f = nn.LayerNorm(D)

    def forward(self, tokens: Any) -> Any:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)


class LlamaNet(nn.Module):  # type: ignore[misc,name-defined]
    """LlamaForCausalLM."""

    def __init__(self, V: int, D: int, layers: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.model = tree({
            "embed_tokens": nn.Embedding(V, D),
            "layers": repeated(layers, lambda: Llama(D, heads, kv_heads, hidden)),
            "norm": nn.RMSNorm(D, 1e-5),
        })  # fmt: skip
        self.lm_head = nn.Linear(D, V, bias=False)

    def forward(self, tokens: Any) -> Any:
        x = self.model["embed_tokens"](tokens)
        for block in self.model["layers"]:
            x = block(x)
        return self.lm_head(self.model["norm"](x))


class ViTNet(nn.Module):  # type: ignore[misc,name-defined]
    """ViTForImageClassification."""

    def __init__(
        self, classes: int, size: int, patch: int, D: int, layers: int, heads: int
    ) -> None:
        super().__init__()

        def layer() -> Any:
            return tree({
                "layernorm_before": nn.LayerNorm(D, 1e-12),
                "attention": {
                    "attention": query_key_value(D), "output": {"dense": nn.Linear(D, D)},
                },
                "layernorm_after": nn.LayerNorm(D, 1e-12),
                "intermediate": {"dense": nn.Linear(D, 4 * D)},
                "output": {"dense": nn.Linear(4 * D, D)},
            })  # fmt: skip

        self.heads = heads
        projection = nn.Conv2d(3, D, patch, patch)
        self.vit = tree({
            "embeddings": {"patch_embeddings": {"projection": projection}},
            "encoder": {"layer": repeated(layers, layer)},
            "layernorm": nn.LayerNorm(D, 1e-12),
        })  # fmt: skip
        table, places = self.vit["embeddings"], (size // patch) ** 2 + 1
        table.register_parameter("cls_token", nn.Parameter(torch.zeros(1, 1, D)))
        table.register_parameter("position_embeddings", nn.Parameter(torch.zeros(1, places, D)))
        self.classifier = nn.Linear(D, classes)

    def forward(self, image: Any) -> Any:
        table = self.vit["embeddings"]
        x = table["patch_embeddings"]["projection"](image).flatten(2).mT
        x = torch.cat([table.cls_token.expand(len(x), -1, -1), x], 1) + table.position_embeddings
        for layer in self.vit["encoder"]["layer"]:
            y, look = layer["layernorm_before"](x), layer["attention"]["attention"]
            y = attend(*(look[name](y) for name in ("query", "key", "value")), self.heads)
            x = x + layer["attention"]["output"]["dense"](y)
            y = F.gelu(layer["intermediate"]["dense"](layer["layernorm_after"](x)))
            x = x + layer["output"]["dense"](y)
        return self.classifier(self.vit["layernorm"](x)[:, 0])


class T5Net(nn.Module):  # type: ignore[misc,name-defined]
    """T5ForConditionalGeneration, version 1.0: relu, and the last layer's weight is the table."""

    def __init__(self, V: int, D: int, layers: int, heads: int, dim: int, hidden: int) -> None:
        super().__init__()

        def norm() -> Any:
            return nn.RMSNorm(D, 1e-6)

        def attention(name: str) -> Any:
            parts = {p: nn.Linear(D, heads * dim, bias=False) for p in "qkv"}
            o = nn.Linear(heads * dim, D, bias=False)
            return {name: {**parts, "o": o}, "layer_norm": norm()}

        def stack(kinds: tuple[str, ...], causal: bool) -> Any:
            def block() -> Any:
                wi, wo = nn.Linear(D, hidden, bias=False), nn.Linear(hidden, D, bias=False)
                last = {"DenseReluDense": {"wi": wi, "wo": wo}, "layer_norm": norm()}
                parts = [*(attention(kind) for kind in kinds), last]
                return tree({"layer": nn.ModuleList(map(tree, parts))})

            blocks = repeated(layers, block)
            bias = RelativeBias(heads, 32, 128, causal)
            blocks[0]["layer"][0]["SelfAttention"]["relative_attention_bias"] = bias
            return tree({"block": blocks, "final_layer_norm": norm()})

        self.heads, self.width = heads, D
        self.shared = nn.Embedding(V, D)
        self.encoder = stack(("SelfAttention",), causal=False)
        self.decoder = stack(("SelfAttention", "EncDecAttention"), causal=True)

    def forward(self, source: Any, kept: Any, target: Any) -> Any:
        padding = torch.where(kept, 0.0, -1e30)[:, None, None]
        memory = self.stack(self.encoder, self.shared(source), padding)
        steps = target.shape[1]
        future = torch.full((steps, steps), -1e30).triu(1)
        y = self.stack(self.decoder, self.shared(target), future, memory, padding)
        return F.linear(y * self.width**-0.5, self.shared.weight)

    def stack(self, part: Any, x: Any, mask: Any, memory: Any = None, padding: Any = None) -> Any:
        places = torch.arange(x.shape[1])
        bias = part["block"][0]["layer"][0]["SelfAttention"]["relative_attention_bias"]
        mask = mask + bias(places, places)
        for block in part["block"]:
            for layer in block["layer"]:
                y = layer["layer_norm"](x)
                if "SelfAttention" in layer:
                    y = self.attention(layer["SelfAttention"], y, y, mask)
                elif "EncDecAttention" in layer:
                    y = self.attention(layer["EncDecAttention"], y, memory, padding)
                else:
                    y = layer["DenseReluDense"]["wo"](F.relu(layer["DenseReluDense"]["wi"](y)))
                x = x + y
        return part["final_layer_norm"](x)

    def attention(self, part: Any, x: Any, memory: Any, mask: Any) -> Any:
        q, k, v = part["q"](x), part["k"](memory), part["v"](memory)
        return part["o"](attend(q, k, v, self.heads, attn_mask=mask, scale=1.0))
