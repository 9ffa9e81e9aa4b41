"""Messages of protocol buffers, by hand."""

from __future__ import annotations

import pytest

from prelabel import protobuf


def test_wire_format_by_hand() -> None:
    # field 1: 300; field 2: "hi"; field 3: message {field 1: -1}; field 4: fixed32; field 5: fixed64
    data = bytes.fromhex("08ac02") + b"\x12\x02hi" + b"\x1a\x0b\x08" + b"\xff" * 9 + b"\x01"
    data += b"\x25" + bytes(4) + b"\x29" + bytes(8)
    message = memoryview(data)
    assert protobuf.number(message, 1) == 300
    assert protobuf.text(message, 2) == "hi"
    assert protobuf.number(next(protobuf.messages(message, 3)), 1) == -1
    assert [number for number, _ in protobuf.fields(message)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("data", [b"\x08", b"\x0a\x05hi", b"\x0b", b"\x08" + b"\xff" * 20, b"\x02\x00"])
def test_corrupt_message_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        list(protobuf.fields(memoryview(data)))
