"""The golden checker's view of detectors that look at all anchors at once."""
