"""The two graphs that every method ends as, and their translation to ONNX."""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..train.methods import Method

OPSET = 20  # static INT8 tools stop here


class EncoderGraph(nn.Module):
    """uint8 [N,H,W,3] RGB crops → float32 [N,D] features; the whole preprocessing is inside."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, frames: Tensor) -> Tensor:
        return self.method.encode_frames(frames)


class HeadGraph(nn.Module):
    """float32 [N,T,D] features → probabilities [N,C]; class matrix and scale are folded in as one constant."""

    def __init__(self, method: Method, class_matrix: Tensor) -> None:
        super().__init__()
        self.method = method
        self.classes: Tensor
        self.register_buffer("classes", method.scale * class_matrix.T)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.method.pool(features) @ self.classes
        return logits.softmax(dim=-1)


def trace_encoder(method: Method) -> bytes:
    """The encoder as ONNX: "frames" → "features", batch dynamic."""
    return trace_encoder_program(method)[0]


def trace_encoder_program(method: Method) -> tuple[bytes, Any]:
    """The encoder as ONNX, and as torch's ExportedProgram, whose values have the names of the graph's tensors."""
    size = method.preprocessing.size
    frames = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # batch of 2: a 1 would be taken for a constant
    return _trace(EncoderGraph(method), frames, "frames", "features")


def trace_head(method: Method, class_matrix: Tensor) -> bytes:
    """The head as ONNX: "features" → "probabilities", batch dynamic."""
    features = torch.zeros(2, method.window, class_matrix.shape[1])
    return _trace(HeadGraph(method, class_matrix), features, "features", "probabilities")[0]


def _trace(graph: nn.Module, example: Tensor, input_name: str, output_name: str) -> tuple[bytes, Any]:
    with _lean(graph), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            graph.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=[output_name],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    model = program.model_proto
    del model.metadata_props[:]
    names: Counter[str] = Counter()
    for node in model.graph.node:
        node.name = _readable_name(node, names)
        del node.metadata_props[:]  # stack traces of the exporting machine
        node.doc_string = ""
    data: bytes = model.SerializeToString()
    return data, program.exported_program


class PlainAttention(nn.Module):
    """`nn.MultiheadAttention` on sequences [N,L,D] as the dozen operators that it comes to, on the same weights.

    Its own path moves the batch behind the tokens and back, copying five times per layer, and finds out shapes as it
    runs; its fused path has no ONNX form at all. Queries, keys and values are three products: OpenVINO fuses no
    scales into an INT8 product that is split afterwards.
    """

    def __init__(self, published: nn.MultiheadAttention) -> None:
        super().__init__()
        self.published, self.heads, self.scale = published, published.num_heads, published.head_dim**-0.5
        parts = zip(published.in_proj_weight.chunk(3), published.in_proj_bias.chunk(3), strict=True)
        self.queries, self.keys, self.values = (_linear(weight, bias) for weight, bias in parts)
        self.out_proj = published.out_proj

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
        masked = options.get("attn_mask") is not None or options.get("key_padding_mask") is not None
        if masked or key is not value:
            return self.published(query, key, value, **options)
        parts = self.queries(query), self.keys(key), self.values(key)
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = (queries @ keys.transpose(2, 3) * self.scale).softmax(dim=-1) @ values
        return self.out_proj(seen.transpose(1, 2).flatten(2)), None


class ClassTokenBlock(nn.Module):
    """The last block of a vision transformer [N,L,D] → [N,1,D] of which only the class token, the first, is read.

    Only that token asks, and goes through the MLP; the others are keys and values. The result is the same, for 1/14
    less work in a ViT of twelve blocks.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ls_1 = block.ln_1, block.attn, block.ls_1
        self.ln_2, self.mlp, self.ls_2 = block.ln_2, block.mlp, block.ls_2

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        normed = self.ln_1(x)
        first = x[:, :1] + self.ls_1(self.attn(normed[:, :1], normed, normed)[0])
        result: Tensor = first + self.ls_2(self.mlp(self.ln_2(first)))
        return result


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer


@contextmanager
def _lean(graph: nn.Module) -> Iterator[None]:
    """While tracing, attention and last blocks are those that compute the same with less."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    replaced: list[tuple[nn.Module, str, nn.Module]] = []

    def replace(parent: nn.Module, name: str, lean: nn.Module) -> None:
        replaced.append((parent, name, getattr(parent, name)))
        setattr(parent, name, lean.eval())

    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for parent in list(graph.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.MultiheadAttention) and _is_plain(child):
                    replace(parent, name, PlainAttention(child))
        for parent in list(graph.modules()):
            if _reads_class_token(parent):
                blocks: Any = parent.transformer.resblocks  # type: ignore[union-attr]
                replace(blocks, str(len(blocks) - 1), ClassTokenBlock(blocks[-1]))
        yield
    finally:
        for parent, name, child in reversed(replaced):
            setattr(parent, name, child)
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    return (
        attention.batch_first
        and attention.in_proj_weight is not None
        and attention.in_proj_bias is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
    )


def _reads_class_token(module: Any) -> bool:
    """Whether this is open_clip's vision transformer, of blocks as CLIP has them, that reads its class token only."""
    if getattr(module, "pool_type", None) != "tok" or module.attn_pool is not None or module.output_tokens:
        return False
    last = module.transformer.resblocks[-1]
    plain = type(last).__name__ == "ResidualAttentionBlock" and not hasattr(last, "ln_1_kv")
    return plain and isinstance(last.attn, PlainAttention)


def _readable_name(node: Any, names: Counter[str]) -> str:
    """The path of the module that a node computes, and its operator: "clip_model.visual.conv1/Conv"; never twice."""
    scopes = [entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
    path = ast.literal_eval(scopes[0])[-2:-1] if scopes else []
    name = "/".join([*(part.removeprefix("method.") for part in path if part), node.op_type])
    names[name] += 1
    return name if names[name] == 1 else f"{name}.{names[name]}"
