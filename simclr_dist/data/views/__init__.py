"""What is drawn for a view, apart from its pixels."""
