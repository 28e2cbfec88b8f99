"""A small world where every fact is known: pictures of coloured shapes, captions, questions, and the eight tasks."""
