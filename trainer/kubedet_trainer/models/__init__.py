"""Detectors in plain torch. The package itself imports no torch: recipes need only `models.options`."""
