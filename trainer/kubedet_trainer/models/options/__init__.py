"""What the parts of detectors are built from: frozen dataclasses with the zoo's defaults, without torch."""
