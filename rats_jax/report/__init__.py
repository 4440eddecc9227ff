"""Tables, pages, plots and sheets of pictures, from plain numbers."""
