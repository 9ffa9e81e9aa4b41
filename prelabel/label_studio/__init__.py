"""Label Studio: its labeling config, tasks and regions, its server, and pushes to it."""
