"""Holding the instrument against answers that are known: statements about the zoo, each a test over several worlds."""
