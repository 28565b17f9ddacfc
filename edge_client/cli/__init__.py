"""The program `hedge` on the terminal."""
