"""One run from request to published artifact; workflow reads top-down."""
