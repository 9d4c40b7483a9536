"""`nnsam3d <command>`: the options of every command, and what calls the library with them. Nothing imports this."""
