"""The package that extensions import as `modules`. Names are A1111's; what stands behind them is this server's."""
