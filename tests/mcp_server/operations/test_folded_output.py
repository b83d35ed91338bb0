"""An output without its frames is whole for a model: no part of it is read from the file that has every frame."""

from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import decode_result
from agentbus_mcp.operations.output import output_of_result
from support.mcp_harness import result_message


def test_a_folded_output_is_shown_as_a_whole() -> None:
    note = {"truncated": True, "bytes": 90_000, "kept": 11, "folded": True, "file": {"bucket": "b", "name": "n"}}
    part = output_of_result(decode_result(encode({**result_message("job", "the ünswer"), "output": note})))
    assert (part.text, part.total_bytes, part.readable_bytes) == ("the ünswer", 11, 11)
