"""The `lit-vision` command: parsing, error sentences, help screens, and Lightning's own command line behind them."""
