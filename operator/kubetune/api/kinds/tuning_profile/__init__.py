"""TuningProfile and ClusterTuningProfile: settings that jobs share."""
