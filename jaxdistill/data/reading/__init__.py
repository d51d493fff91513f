"""From files to rows: sources, formats, tables, columns, documents, chats, images."""
