# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""XML files: read without document types, in the encoding that they declare."""

from pathlib import Path
from xml.etree import ElementTree

# Published annotations and drawings have a few thousand bytes; a tree takes many times the bytes of its file.
MAX_XML_BYTES = 1 << 20


class _PlainTreeBuilder(ElementTree.TreeBuilder):
    """Tree builder that refuses document types: they can define entities that grow without bound."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Called by the parser before the document type is used."""
        raise ValueError(f"a document type `{name}` is declared, which annotations do not need")


def read_xml(path: Path) -> ElementTree.Element:
    """Read the root of an XML file.

    Args:
        path (`Path`): the file.

    Raises:
        ValueError: more than `MAX_XML_BYTES`, not XML, an unknown encoding, or a document type; the message names
            reason and position.
    """
    num_bytes = path.stat().st_size
    if num_bytes > MAX_XML_BYTES:
        raise ValueError(f"it has {num_bytes:,} bytes, more than {MAX_XML_BYTES:,}")
    try:
        return ElementTree.parse(path, ElementTree.XMLParser(target=_PlainTreeBuilder())).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"not well-formed XML in the encoding that it declares, or in UTF-8: {error}") from error
    except LookupError as error:
        raise ValueError(str(error)) from error
