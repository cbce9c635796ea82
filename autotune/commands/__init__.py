"""What the commands do, without their printing. One module a command, or a folder."""
