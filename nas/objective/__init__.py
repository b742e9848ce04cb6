"""What a search is to reach: MES, costs, limits, and the latency tables behind them."""
