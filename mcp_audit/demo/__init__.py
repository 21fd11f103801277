"""A small MCP server and client, standard library only, run as processes of their own by `demo` and `doctor`."""
