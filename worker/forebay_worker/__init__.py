"""The worker: owns one device, loads units of backbones onto it and serves as a stage of pipelines.

May not live here: decisions about other workers. Modules that inspect a checkpoint import no torch.
"""
