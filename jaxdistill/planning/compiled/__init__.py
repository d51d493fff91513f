"""Reading what the compiler made of a program: operations, bytes, messages, loops."""
