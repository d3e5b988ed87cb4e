"""Published weights in: fetched once and checked by hash, their names understood, never run as code."""
