"""Images in tar files ("shards"), local or on a server: docs/design/shards.md."""
