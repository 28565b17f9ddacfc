"""When a draft is uncertain: measures, policies, and the thresholds that a calibration gives."""
