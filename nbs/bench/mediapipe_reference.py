"""What mediapipe 0.10.21 says of pictures, for `face_models.ipynb`: run in an environment of its own.

    python mediapipe_reference.py PICTURES.npz ANSWERS.npz

The two steps are those that this project took with that package: boxes on the whole picture, near ones first, then the mesh on a crop.
"""
import os
os.environ |= {"GLOG_minloglevel": "3", "TF_CPP_MIN_LOG_LEVEL": "3"}
import sys, time

import cv2
import numpy as np
from mediapipe.python import solutions
from mediapipe.python.solutions import face_mesh_connections

mesh = solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=.5)
detectors = [solutions.face_detection.FaceDetection(model_selection=far, min_detection_confidence=.5) for far in (0, 1)]

def crop_of(image, box, size, factor):   # as `landmarks.face_crop`
    h, w = image.shape[:2]
    side = round(max(box[2] - box[0], box[3] - box[1])*factor)
    left, top = round((box[0] + box[2] - side)/2), round((box[1] + box[3] - side)/2)
    rows, columns = np.clip(np.arange(top, top + side), 0, h - 1), np.clip(np.arange(left, left + side), 0, w - 1)
    crop = cv2.resize(image[rows[:, None], columns], (size, size), interpolation=cv2.INTER_AREA if size < side else cv2.INTER_LINEAR)
    return crop, size/side, (left, top)

def boxes_of(image):   # largest first
    h, w = image.shape[:2]
    zoom = -(-192//min(h, w)) if min(h, w) < 192 else 1
    if zoom > 1: image = cv2.resize(image, (w*zoom, h*zoom), interpolation=cv2.INTER_LINEAR)
    for detector in detectors:
        if found := detector.process(image).detections: break
    boxes = [d.location_data.relative_bounding_box for d in found or ()]
    boxes = [[b.xmin*w, b.ymin*h, (b.xmin + b.width)*w, (b.ymin + b.height)*h] for b in boxes]
    return sorted(boxes, key=lambda b: -(b[2] - b[0])*(b[3] - b[1]))

def points_of(image, box):   # nan where the crops show no face
    for factor, size in ((1.5, 256), (2.2, 384)):
        crop, scale, offset = crop_of(image, box, size, factor)
        if found := mesh.process(crop).multi_face_landmarks:
            points = np.float32([(p.x, p.y, p.z) for p in found[0].landmark])*size/scale
            return points + np.float32([*offset, 0])
    return np.full((478, 3), np.nan, np.float32)

def timed(image, box, repeats):   # milliseconds: boxes, mesh
    spent = []
    for _ in range(repeats):
        start = time.perf_counter(); boxes_of(image)
        middle = time.perf_counter(); points_of(image, box)
        spent.append((middle - start, time.perf_counter() - middle))
    return np.median(spent, 0)*1e3

def main(pictures, answers):
    with np.load(pictures) as z: images = [z[k] for k in sorted(z.files)]
    boxes = [(boxes_of(i) or [[np.nan]*4])[0] for i in images]
    points = [points_of(i, b) if np.isfinite(b[0]) else np.full((478, 3), np.nan, np.float32) for i, b in zip(images, boxes)]
    lines = {name: np.array(sorted(getattr(face_mesh_connections, f"FACEMESH_{name}"))) for name in
             ("TESSELATION", "FACE_OVAL", "LIPS", "LEFT_EYE", "RIGHT_EYE", "LEFT_EYEBROW", "RIGHT_EYEBROW")}
    np.savez(answers, boxes=np.float32(boxes), points=np.float32(points), milliseconds=timed(images[0], boxes[0], 40), **lines)

if __name__ == "__main__": main(*sys.argv[1:])
