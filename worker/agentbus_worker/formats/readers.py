"""Makes the reader of a format: the one list of the formats that there are."""

from typing import Final

from agentbus_worker.acp.reader import AcpReader
from agentbus_worker.formats.claude import ClaudeReader
from agentbus_worker.formats.codex import CodexReader
from agentbus_worker.formats.gemini import GeminiReader
from agentbus_worker.formats.opencode import OpencodeReader
from agentbus_worker.formats.qwen import QwenReader
from agentbus_worker.formats.reading import Reader

READERS: Final[dict[str, type[Reader]]] = {
    reader.kind: reader for reader in (AcpReader, ClaudeReader, CodexReader, GeminiReader, OpencodeReader, QwenReader)
}
"""The formats with events. Any other command is read as text."""
