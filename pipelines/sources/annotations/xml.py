"""XML of unknown origin: elements only, no document type and so no entities."""

from __future__ import annotations

from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat


def parse_xml(data: bytes) -> Element:
    """The root element.

    Raises:
        ValueError: it is not XML, or has a document type, which could make it grow without bounds.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"no XML ({error})") from None
    return builder.close()


def _refuse(*_: object) -> None:
    raise ValueError("it has a document type, which no export needs")
