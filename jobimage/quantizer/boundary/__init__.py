"""Reading input from outside: every fault of an input has a category, and reading takes bounded time and memory."""
