"""What checks annotations while tests run: beartype, to which a whole number is a float as it is to mypy (PEP 484)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
