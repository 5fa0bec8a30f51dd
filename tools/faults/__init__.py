"""The fault campaign: thousands of simulated trips with faults, judged."""
