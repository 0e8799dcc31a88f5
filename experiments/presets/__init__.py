"""The settings that each agent and task starts from, by name of the preset, each with its source.

A preset is a dict of flag names ("steps", "agent.hidden", "data.demo_ratio", "options.demos") to values.
"paper" is each agent's own paper as far as a benchmark does not say otherwise; "small" is for two CPU cores.
Flags given by hand win over all.
"""
