"""Server-sent events (WHATWG HTML, section 9.2): the stream in which OpenAI-compatible servers send tokens."""

from __future__ import annotations


class EventDecoder:
    """Cuts a byte stream into the data of its events, wherever the network cut it.

    Lines end in LF, CR LF or CR. Several `data:` lines of one event are joined by a line feed; comments
    and other fields are skipped.

    >>> decoder = EventDecoder()
    >>> decoder.feed(b"data: {\\"a\\"")
    []
    >>> decoder.feed(b": 1}\\n\\ndata: [DO")
    [b'{"a": 1}']
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    @property
    def unfinished(self) -> bool:
        """Whether bytes of an event are held that has not ended."""
        return bool(self._rest.strip() or self._data)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that end in this chunk."""
        buffer = self._rest + chunk
        if b"\r" in buffer:
            held = buffer.endswith(b"\r")  # its line feed may be in the next chunk
            body = buffer[:-1] if held else buffer
            buffer = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + (b"\r" if held else b"")
        *lines, self._rest = buffer.split(b"\n")
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
        return events
