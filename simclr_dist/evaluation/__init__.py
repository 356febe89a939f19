"""How good the features are: nearest neighbours, linear probes, few labels, fine-tuning beside training from scratch.

Every method but the label curve writes one JSON file into the run folder,
``evaluation_step_<steps>_<method>_<8 hex digits>.json`` (:class:`simclr_dist.evaluation.results.Result`):

- ``format``: 1; ``method``: knn, probe, lowshot, finetune, baseline, segment, label-free;
- ``steps_done``: of pretraining;
- ``encoder_sha256``: of the evaluated weights and running statistics;
- ``data``: source, image_size, classes, train_images, train_fingerprint, test_images, test_fingerprint; only where they
  are not as usual, transparent_ground and apply_orientation; of a foreign file of weights its mean, std and network;
- ``own_images``: whether these are the images of the run's recipe (false: ``--on`` named others);
- ``unequal_classes``: whether the table shows balanced accuracy; ``data.left_out_test_images``: of classes that the
  training images lack, only when there are some;
- ``protocol``: everything that was chosen, seed included; of what is trained by SGD: ``epochs``, ``batch_images``,
  ``base_learning_rate``, ``momentum``, ``optimizer`` (sgd, lars), ``precision`` (float32, bfloat16);
- ``rows``: a list of objects with ``name`` ("linear probe, pretrained"), ``labels`` ("all", "10 a class", "1 %"),
  ``images`` (with labels, learned from), ``top1`` (a list, one share of the test images for each split, 0..1), ``mean``
  and ``std`` (over the splits), ``top5`` (a list, empty with five classes or fewer) and ``mean_top5``, ``balanced``
  (a list, the mean over the classes of the share that is right) and ``mean_balanced``,
  ``subsets_sha256`` (one for each split), ``details`` (of the method: ``inverse_l2``, ``validation``, ``gain``, ...).

``probe --grid`` (``protocol.grid`` is true) has in its row's ``details`` the best probe (``input``, ``learning_rate``
for 256 images) and the grid: ``inputs`` (names), ``columns`` (of each), ``learning_rates``, ``held_out_top1`` (a list
for each input, null: diverged), ``held_out_images`` and ``held_out_sha256``.

``segment`` (:class:`simclr_dist.evaluation.segmentation_results.SegmentationResult`) has ``class_names``, and rows with
``name``, ``images``, ``mean_iou`` and ``pixel_accuracy`` (lists, one share for each seed), ``mean`` and ``std`` of the
former, ``class_iou`` (a list for each seed; null for a class that is in neither masks nor predictions), ``confusion``
(pixels, class by prediction, of all seeds), ``subset_sha256`` (of the images' names) and ``details``.

``label-free`` (:class:`simclr_dist.evaluation.label_free.LabelFreeResult`) has in ``data`` source, image_size, images
and fingerprint, and rows with ``name`` (features, embeddings), ``dimensions``, ``rank_me``, ``alpha_req`` (null where
there are too few directions) and ``lidar``.

The digits in the name are those of encoder, data and protocol: the same evaluation has the same name. The label curve
writes ``evaluation_step_<steps>.json`` with ``steps_done``, ``encoder_sha256``, ``data``, ``own_images``, ``protocol``
(``splits``) and ``points`` (:class:`simclr_dist.evaluation.label_curve.Point`).
"""
