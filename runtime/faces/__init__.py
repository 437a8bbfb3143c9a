"""Finding and following faces: detection, tracking, optical flow, colours, landmark filter, alignment, boxes."""
