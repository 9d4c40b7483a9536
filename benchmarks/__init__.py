"""What measures this library itself: arithmetic, memory and time. Not part of the installed package."""
