"""Detecting and tracking faces: detection, tracking, optical flow, colours, landmark filter, alignment, boxes."""
