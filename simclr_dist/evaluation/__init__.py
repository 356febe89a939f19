"""How good the frozen features are: nearest neighbours and a linear probe with few labels, beside two baselines."""
