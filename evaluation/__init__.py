"""Measuring the two real sides: questions with checkable answers, accuracy, benches."""
