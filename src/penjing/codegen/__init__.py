"""The compiler: a network becomes one C program without dependencies."""
