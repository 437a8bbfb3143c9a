"""Check that an ONNX file is a plain graph, by reading its wire format (all but the weights) before anything loads it.

ONNX is Protocol Buffers (https://protobuf.dev/programming-guides/encoding): fields of (number, wire type, value). Field
numbers here are those of onnx.proto, IR version 13. Other fields are skipped by their length, so weights cost no time
and no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

from ..errors import DferError

FLOAT, UINT8 = 1, 2
"""Values of `TensorProto.DataType`."""

MOST_FIELDS = 300_000  # per file; encoders of 24 layers have about 20,000
HIGHEST_RANK = 8
_BITS = {
    **dict.fromkeys((1, 6, 12), 32),  # float, int32, uint32
    **dict.fromkeys((2, 3, 9), 8),  # uint8, int8, bool
    **dict.fromkeys((17, 18, 19, 20, 24), 8),  # the kinds of float8
    **dict.fromkeys((4, 5, 10, 16), 16),  # uint16, int16, float16, bfloat16
    **dict.fromkeys((7, 11, 13), 64),  # int64, double, uint64
    **dict.fromkeys((21, 22, 23), 4),  # uint4, int4, float4
}
"""Bits per number, by tensor data type; strings and complex numbers do not belong in an encoder."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_Span = tuple[int, int]  # begin and end, in the file, of a nested message or of bytes


@dataclass(frozen=True)
class TensorType:
    """An input or output. kind: ONNX's number for its data type (`FLOAT`, `UINT8`). axes: sizes, None where they may
    vary; types read from a file include the batch axis, expected ones do not."""

    name: str | None
    kind: int
    axes: tuple[int | None, ...]


def check_graph(file: BinaryIO, expected: TensorType, result: TensorType) -> None:
    """Refuse an ONNX file unless it is a plain graph from one numeric tensor to one numeric tensor.

    expected, result: what its input and its output must be. An output's axes and name may be left open.
    Raises DferError with the reason only: external data, nested graphs (loops, scans, branches), functions, operators
    of other domains, sequences, unexpected inputs or outputs, a fixed batch, impossible sizes, damage.
    """
    size = file.seek(0, 2)
    reader = _Reader(file, size)
    graphs = []
    for number, value in reader.fields((0, size), {7: _BYTES, 20: _BYTES, 25: _BYTES}):
        if number in (20, 25):
            raise DferError("it holds functions or training code")
        if number == 7:
            graphs.append(reader.span(value))
    if len(graphs) != 1:
        raise DferError("it holds no graph" if not graphs else "it holds several graphs")
    _check_body(reader, graphs[0], expected, result)


def _check_body(reader: _Reader, graph: _Span, expected: TensorType, result: TensorType) -> None:
    inputs: list[TensorType | None] = []
    outputs: list[TensorType | None] = []
    nodes = 0
    kinds = dict.fromkeys((1, 5, 11, 12, 15), _BYTES)
    for number, value in reader.fields(graph, kinds):
        part = reader.span(value)
        if number == 1:
            nodes += 1
            _check_node(reader, part)
        elif number == 5:
            _check_tensor(reader, part)
        elif number == 15:
            raise DferError("it holds a sparse tensor")
        else:
            (inputs if number == 11 else outputs).append(_value_type(reader, part))
    if not nodes:
        raise DferError("its graph is empty")
    for what, found, wanted in (("input", inputs, expected), ("output", outputs, result)):
        if len(found) != 1:
            raise DferError(f"it has {len(found)} {what}s, not one")
        _compare(what, found[0], wanted)


def _compare(what: str, found: TensorType | None, wanted: TensorType) -> None:
    if found is None or found.kind != wanted.kind:
        raise DferError(f"its {what} is not of type {'float' if wanted.kind == FLOAT else 'uint8'}")
    if wanted.name is not None and found.name != wanted.name:
        raise DferError(f'its {what} is not called "{wanted.name}"')
    batch, *axes = found.axes or (None,)
    if batch is not None:
        raise DferError(f"its {what} has a fixed batch of {batch}")
    open_end = what == "output"
    same = len(axes) == len(wanted.axes) and all(
        here == there or (here is None and open_end) for here, there in zip(axes, wanted.axes, strict=True)
    )
    if not same and not (open_end and not found.axes):
        raise DferError(f"its {what} is {_shape(axes)} per row, and the manifest says {_shape(wanted.axes)}")


def _shape(axes: list[int | None] | tuple[int | None, ...]) -> str:
    return "×".join("?" if axis is None else str(axis) for axis in axes) or "nothing"


def _check_node(reader: _Reader, node: _Span) -> None:
    operator = domain = ""
    for number, value in reader.fields(node, {4: _BYTES, 5: _BYTES, 7: _BYTES}):
        if number == 4:
            operator = reader.text(value)
        elif number == 7:
            domain = reader.text(value)
        else:
            _check_attribute(reader, reader.span(value))
    if domain not in ("", "ai.onnx"):
        raise DferError(f"it has operator {operator!r} of domain {domain!r}, which is not ONNX's own")
    if operator in ("Loop", "Scan", "If") or operator.startswith(("Sequence", "Optional", "SplitToSequence")):
        raise DferError(f"it has operator {operator}; loops, branches and sequences are not run")


def _check_attribute(reader: _Reader, attribute: _Span) -> None:
    kinds = dict.fromkeys((5, 6, 10, 11, 14, 15, 22, 23), _BYTES)
    for number, value in reader.fields(attribute, kinds):
        if number not in (5, 10):
            raise DferError("it has a graph, a type or a sparse tensor inside an operator")
        _check_tensor(reader, reader.span(value))


def _check_tensor(reader: _Reader, tensor: _Span) -> None:
    kind, raw = 0, None
    axes: list[int] = []
    for number, value in reader.fields(tensor, {2: _VARINT, 3: _BYTES, 9: _BYTES, 13: _BYTES, 14: _VARINT}, (1,)):
        if number == 1:
            axes.append(reader.number(value))
        elif number == 2:
            kind = reader.number(value)
        elif number == 9:
            begin, end = reader.span(value)
            raw = end - begin
        elif number != 14 or reader.number(value):
            raise DferError("a tensor's numbers are in another file")
        if len(axes) > HIGHEST_RANK:
            raise DferError(f"a tensor has more than {HIGHEST_RANK} axes")
    bits = _BITS.get(kind)
    if bits is None:
        raise DferError(f"a tensor holds something else than numbers (type {kind})")
    if min(axes, default=0) < 0:
        raise DferError("a tensor has a negative size")
    count = prod(axes)
    held = tensor[1] - tensor[0]
    if count > 2 * held or (raw is not None and raw != (count * bits + 7) // 8):
        raise DferError(f"a tensor of {'×'.join(map(str, axes))[:60]} numbers does not hold them")


def _value_type(reader: _Reader, value_info: _Span) -> TensorType | None:
    """Return the type of an input or output, None if it has none. Refuses anything but tensors."""
    name, tensors = "", []
    for number, value in reader.fields(value_info, {1: _BYTES, 2: _BYTES}):
        if number == 1:
            name = reader.text(value)
            continue
        for kind, inner in reader.fields(reader.span(value), dict.fromkeys((1, 4, 5, 7, 8, 9), _BYTES)):
            if kind != 1:
                raise DferError("an input or output is a sequence, map or optional, not a tensor")
            tensors.append(reader.span(inner))
    if len(tensors) > 1:
        raise DferError("an input or output has several types")
    return _tensor_type(reader, name, tensors[0]) if tensors else None


def _tensor_type(reader: _Reader, name: str, tensor: _Span) -> TensorType:
    kind = 0
    axes: list[int | None] = []
    for number, value in reader.fields(tensor, {1: _VARINT, 2: _BYTES}):
        if number == 1:
            kind = reader.number(value)
            continue
        for _, dimension in reader.fields(reader.span(value), {1: _BYTES}):
            sizes = [reader.number(size) for _, size in reader.fields(reader.span(dimension), {1: _VARINT})]
            axes.append(sizes[-1] if sizes else None)
            if len(axes) > HIGHEST_RANK:
                raise DferError(f"an input or output has more than {HIGHEST_RANK} axes")
    return TensorType(name, kind, tuple(axes))


class _Reader:
    """Reads the fields of a file in order. Their number is limited, so that a malicious file cannot keep it busy."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, MOST_FIELDS
        self._block, self._start = b"", 0  # the last block read, and its position

    def fields(
        self, message: _Span, kinds: dict[int, int], packed: tuple[int, ...] = ()
    ) -> Iterator[tuple[int, int | _Span]]:
        """Yield (number, value) of the fields in `kinds`, which gives their wire types, and in `packed` (repeated
        numbers, packed or not). A value is a number, or the span of a nested message or of bytes."""
        place, end = message
        while place < end:
            self._left -= 1
            if self._left < 0:
                raise DferError(f"it has more than {MOST_FIELDS:,} parts")
            key, place = self._varint(place, end)
            number, wire = key >> 3, key & 7
            value: int | _Span
            if wire == _VARINT:
                value, place = self._varint(place, end)
            elif wire == _BYTES:
                length, place = self._varint(place, end)
                value, place = (place, place + length), place + length
            elif wire in (_FIXED64, _FIXED32):
                value, place = 0, place + (8 if wire == _FIXED64 else 4)
            else:
                raise DferError("it is damaged, or no ONNX file")
            if place > end or number == 0:
                raise DferError("it is damaged, or no ONNX file")
            if number in packed and wire == _BYTES:
                yield from ((number, one) for one in self._numbers(self.span(value)))
            elif number in packed or number in kinds:
                if wire != kinds.get(number, _VARINT):
                    raise DferError("it is damaged, or no ONNX file")
                yield number, value

    def text(self, value: int | _Span) -> str:
        """Return a name, cut at 200 bytes; the names that matter are shorter."""
        begin, end = self.span(value)
        self._file.seek(begin)
        return self._file.read(min(end - begin, 200)).decode(errors="replace")

    @staticmethod
    def span(value: int | _Span) -> _Span:
        if isinstance(value, int):
            raise DferError("it is damaged, or no ONNX file")
        return value

    @staticmethod
    def number(value: int | _Span) -> int:
        """Return a value as a signed 64-bit number."""
        if not isinstance(value, int):
            raise DferError("it is damaged, or no ONNX file")
        return value - (1 << 64) if value >> 63 else value

    def _numbers(self, span: _Span) -> Iterator[int]:
        place, end = span
        while place < end:
            value, place = self._varint(place, end)
            yield value

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        """Return a number of up to 64 bits and the position after it."""
        offset = place - self._start
        if not 0 <= offset <= len(self._block) - 10:
            self._file.seek(place)
            self._block, self._start, offset = self._file.read(4096), place, 0
        if place < end and offset < len(self._block) and (value := self._block[offset]) < 0x80:
            return value, place + 1
        value = 0
        for index, byte in enumerate(self._block[offset : offset + min(10, end - place)]):
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, place + index + 1
        raise DferError("it is damaged, or no ONNX file")
