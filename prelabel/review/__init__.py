"""Reviews a finished run: `evaluate` compares it with ground truth, `compare` with annotators' corrections.

evaluate    truth               reads and checks the ground truth, a COCO dataset
            image_matching      pairs images of both sides; truth_frame: finds the frame of the truth's boxes
            gather              collects the paired images, with detections in the truth's classes
            matching            decides which detections are correct and counts confusions; coco_scores: AP and AR
            thresholds          chooses score thresholds and counts the corrections they leave
            evaluation          runs these steps, in this order
compare     annotation_files    reads what annotators made into the types of `annotations`
            basis               chooses the selection that decides what was shown, if the annotations do not tell
            preannotations      finds the detections that annotators were shown on each image
            edits, tally        classify their edits per image, and count them
            comparison          runs these steps, in this order
report/     tables, pages, files: what both commands print and write
"""
