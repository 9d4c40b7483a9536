"""`nnsam3d <command>`: the options of every command and the calls into the library. No other package imports this."""
