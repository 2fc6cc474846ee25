"""Which test holds which row of what an analyst may expect: labels, imagery, and the errors that were silent once.

Each row names the input and what is done with it, and below it the tests that hold it; a test of this file looks that
they are there. What splits, checks before the work and chip layouts do is held where these are tested.

Of two rows the rule was changed since: ground outside of all polygons is background, told with its share (it was to be
refused), and a class of its own may be any integer, while the map's own values stay below 255.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LABELS = {
    "another CRS: densified, then reprojected": [
        "labels/test_labels.py::test_another_crs_is_brought_onto_the_grid",
        "geo/areas/test_area.py::test_long_edges_follow_the_ground_within_a_pixel",
        "tables/test_worlds_cut_anywhere.py::test_in_another_crs_the_labels_lie_where_pyproj_says",
    ],
    "no CRS: refused, the option named": [
        "cli/test_bad_input.py::test_labels_without_crs",
        "labels/test_labels.py::test_without_crs_the_option_is_named_and_works",
        "jobs/tile/test_tile_pictures.py::test_each_chip_holds_the_pixels_of_the_picture_and_mask_of_one_name",
        "jobs/tile/test_tile_pictures.py::test_label_tiles_lie_beside_image_tiles",
    ],
    "no overlap: both boxes, a swap of axes suggested": [
        "cli/test_bad_input.py::test_labels_that_lie_elsewhere_print_both_extents",
        "labels/test_labels.py::test_no_overlap_prints_both_extents",
    ],
    "classes as text, integers, floats: mapped; unknown ones with count, feature and the nearest name": [
        "labels/test_classes.py::test_fields_of_every_type",
        "cli/test_bad_input.py::test_an_unknown_class_name_names_the_nearest",
        "labels/test_classes.py::test_an_unknown_value",
    ],
    "NULL: unlabelled, counted": [
        "labels/test_classes.py::test_null_blank_and_trimmed_are_told_with_their_counts",
        "labels/test_labels.py::test_null_is_unlabelled_with_a_note",
    ],
    "overlapping polygons: a priority, else an error above 0.1 % of the labelled area": [
        "labels/test_overlaps.py::test_the_printed_priority_works",
        "labels/test_overlaps.py::test_a_little_is_told",
        "tables/test_what_counts.py::test_overlaps_and_implied_background_are_those_of_measured_pixels",
    ],
    "partial annotation: a labelled area; without it the share of implied background": [
        "labels/test_labelled_area.py::test_it_is_a_layer_of_the_labels_file_or_a_file",
        "labels/test_labelled_area.py::test_background_that_nobody_drew_is_told_with_its_share",
        "tables/test_what_counts.py::test_tile_tells_the_share_of_its_chips",
    ],
    "bowtie: made valid, feature numbers told": [
        "labels/test_labels.py::test_broken_polygons_are_mended_with_a_note",
        "geo/areas/test_polygons.py::test_every_odd_geometry_is_mended_or_counted_alike",
    ],
    "colours: exact tables and presets, unknown ones refused above 0.5 %, no JPEG": [
        "labels/test_label_rasters.py::test_every_preset_reads_its_own_colours",
        "labels/test_label_rasters.py::test_unknown_colours_are_told_up_to_half_a_percent",
        "labels/test_label_rasters.py::test_jpeg_in_any_wrapping",
        "tables/test_hidden_labels.py::test_jpeg_behind_a_vrt_behind_a_vrt",
    ],
    "palettes: numbers count, colours are shown, nodata is told": [
        "tables/test_hidden_labels.py::test_its_colours_are_the_classes_and_a_preset_of_them_is_named",
        "tables/test_hidden_labels.py::test_a_number_that_is_declared_as_nodata_is_told_and_can_be_a_class",
        "labels/test_label_rasters.py::test_palettes_that_contradict_each_other_are_refused",
    ],
    "another GSD or extent: nearest or mode, outside unlabelled, both GSDs told": [
        "labels/test_labels.py::test_coarser_labels_are_repeated_and_finer_ones_vote",
        "labels/test_labels.py::test_labels_far_away_leave_all_unlabelled",
        "tables/test_real_twins.py::test_labels_of_another_pixel_size_are_told_with_both",
    ],
    "values up to 254, pixels by their centre, swatch, name and share printed": [
        "labels/test_classes.py::test_any_integer_is_a_class_and_keeps_its_code",
        "vectors/test_traps.py::test_10_class_300_does_not_become_255",
        "labels/test_vector_file.py::test_all_touched_is_gdals",
        "cli/test_commands.py::test_from_rasters_and_labels_to_polygons_and_scores",
    ],
}

IMAGERY = {
    "VRT: missing members are listed first": [
        "geo/raster/test_remote.py::test_missing_members_of_a_vrt_are_told_before_anything_is_read",
    ],
    "many scenes: one output each, or a mosaic with a documented order; what differs stops it": [
        "jobs/predict/test_predict.py::test_several_rasters_get_a_mask_each",
        "geo/raster/test_mosaic.py::test_the_later_raster_lies_on_top_where_it_measured",
        "geo/raster/test_mosaic.py::test_what_differs_is_named_with_both_sides",
        "tables/test_worlds_cut_anywhere.py::test_scenes_on_both_sides_are_a_mosaic_of_the_ground_between_them",
    ],
    "s3 and https: asked again, never zeros": [
        "geo/raster/test_remote.py::test_a_raster_in_a_bucket_reads_as_the_file",
        "geo/raster/test_remote.py::test_sidecars_are_not_asked_for_one_by_one",
        "geo/raster/test_remote.py::test_what_passes_is_asked_again",
        "geo/raster/test_remote.py::test_what_does_not_pass_is_an_error_never_zeros",
    ],
    "uint16 RGBN: bands chosen, roles stored, a mismatch names both sides": [
        "jobs/predict/test_predict_bands.py::test_the_mask_is_that_of_a_raster_of_the_chosen_bands",
        "jobs/predict/test_predict_bands.py::test_bands_that_differ_are_refused_with_both_sides_and_what_would_mend_it",
    ],
    "a collar that nothing declares: told above 1 % with the remedy": [
        "geo/raster/test_scene_statistics.py::test_a_collar_is_found_with_its_value_from_one_per_cent_on",
        "jobs/tile/test_tile_bands.py::test_collars_are_told_once_with_their_remedy",
    ],
    "alpha: a mask only where it is flagged and not chosen": [
        "geo/raster/test_band_choice.py::test_alpha_masks_unless_it_is_chosen_as_imagery",
    ],
    "masks: dataset_mask, and (5, 0, 0) is measured with nodata 0": [
        "geo/raster/test_raster.py::test_measured_pixels_are_known_however_the_file_marks_them",
        "geo/raster/test_raster.py::test_a_saturated_band_of_a_measured_pixel_keeps_its_value",
        "jobs/predict/test_predict.py::test_nodata_in_is_nodata_out_to_the_pixel_on_the_sources_grid",
    ],
    "south-up: turned without loss": [
        "odd/test_mirrored.py::test_turning_a_raster_over_loses_nothing",
        "odd/test_mirrored.py::test_chips_show_the_ground_as_it_is",
    ],
    "rotated: in its own pixels, the geotransform kept": [
        "odd/test_traps.py::test_9_rotated_and_south_up_rasters_are_mapped_where_they_lie",
        "odd/test_grids.py::test_a_rotated_raster_is_resampled_in_its_own_pixels",
    ],
    "degrees: geodesic on both axes, each rescaled by itself": [
        "odd/test_grids.py::test_each_axis_of_degrees_comes_to_the_models_gsd",
        "odd/test_grids.py::test_tile_cuts_pixels_that_are_not_square_as_predict_sees_them",
    ],
    "another GSD than the model's: resampled, far off refused, back on the source's grid": [
        "cli/test_bad_input.py::test_a_pixel_size_far_off_is_refused_unless_forced",
        "jobs/predict/test_predict.py::test_a_resampled_raster_gets_its_classes_where_they_lie",
        "odd/test_traps.py::test_7_pixels_do_not_depend_on_the_window_they_are_read_through",
    ],
    "normalisation: of valid training pixels, a range far outside is told": [
        "jobs/tile/test_tile.py::test_statistics_are_those_of_the_measured_training_pixels",
        "jobs/predict/test_predict_bands.py::test_a_range_far_outside_of_the_trainings_is_told",
    ],
    "100,000²: memory of a strip, a forecast, a budget": [
        "jobs/predict/test_stream.py::test_memory_is_flat_in_the_rasters_height",
        "cli/test_commands.py::test_a_dry_run_tells_what_it_would_take_and_writes_nothing",
        "cli/predict/test_predict_limits.py::test_too_little_memory_tells_how_much_is_enough",
    ],
    "resume: the same command goes on, other parameters are refused by name": [
        "jobs/predict/test_resume.py::test_twenty_six_crashes_change_no_byte",
        "jobs/predict/test_resume.py::test_changed_parameters_are_refused_by_name_and_restart_begins_anew",
    ],
    "what exists: kept unless overwritten": [
        "cli/test_bad_input.py::test_an_output_that_exists_is_kept_unless_overwritten"
    ],
    "read-only or locked: told before the work": [
        "cli/test_bad_input.py::test_vectors_are_checked_before_the_prediction",
        "vectors/test_files.py::test_a_folder_that_cannot_be_written_to",
        "vectors/test_files.py::test_a_geopackage_in_a_transaction",
    ],
    "a full disk: one line, nothing half written, the run goes on": [
        "jobs/predict/test_resume.py::test_a_full_disk_is_one_line_and_the_run_can_go_on",
        "odd/test_traps.py::test_5_a_full_disk_leaves_no_mask",
    ],
}

SILENT = {
    "a 0/255 mask, or background that is declared as nodata": [
        "jobs/tile/test_tile_classes.py::test_masks_of_two_values",
        "labels/test_label_rasters.py::test_the_remedy_for_one_class_works",
        "tables/test_hidden_labels.py::test_a_grey_picture_of_one_class_names_the_remedy",
        "tables/test_hidden_labels.py::test_a_list_is_given_to_the_numbers_that_are_there_in_their_order",
    ],
    "longitudes that do not wrap": [
        "geo/areas/test_longitudes.py::test_whole_turns_move_no_pixel_of_labels_nor_of_areas",
        "tables/test_worlds_cut_anywhere.py::test_a_label_raster_for_each_side",
        "tables/test_worlds_cut_anywhere.py::test_labels_around_it_lie_on_the_scene",
    ],
    "options that cannot apply": [
        "labels/test_vector_file.py::test_settings_for_polygons_are_refused_with_rasters",
        "labels/test_label_rasters.py::test_what_is_for_polygons",
        "tables/test_hidden_labels.py::test_a_number_cannot_be_a_class_and_mean_nothing",
        "tables/test_hidden_labels.py::test_a_number_that_is_nowhere_is_told",
    ],
    "fillers in statistics": [
        "jobs/tile/test_tile_values.py::test_a_filler_of_one_band_enters_no_statistics",
        "jobs/tile/test_tile_values.py::test_numbers_that_nothing_measures_are_told_and_enter_no_statistics",
        "tables/test_what_counts.py::test_what_models_write_for_what_is_missing_is_looked_for",
    ],
    "scale and offset that differ between scenes": [
        "jobs/tile/test_tile_values.py::test_scenes_that_declare_other_offsets_give_chips_of_one_unit",
        "jobs/tile/test_tile_values.py::test_scenes_of_which_some_declare_no_scale_are_refused_and_both_remedies_work",
        "tables/test_what_counts.py::test_a_scale_that_gives_no_meaning_is_refused",
        "jobs/predict/test_predict_values.py::test_a_model_of_shifted_numbers_knows_their_offset",
    ],
    "numbers in text, blanks, capitals": [
        "jobs/tile/test_tile_classes.py::test_text_numbers_and_numbers_give_one_dataset",
        "labels/test_classes.py::test_capitals_are_told_and_the_printed_remedy_makes_one_class",
    ],
    "codes beyond 254": [
        "labels/test_label_rasters.py::test_corine_codes_become_values_and_stay_as_codes",
        "labels/test_classes.py::test_what_the_error_prints_works",
    ],
    "geometries and texts beyond repair": [
        "geo/areas/test_broken_wkb.py::test_every_feature_is_ground_or_counted",
        "labels/test_vector_file.py::test_bytes_that_are_no_utf8_are_told_in_any_format",
        "tables/test_what_counts.py::test_an_unclosed_ring_with_what_is_no_number_costs_itself_alone",
    ],
    "label chips of another size, or with values that are no class": [
        "jobs/tile/test_tile_classes.py::test_another_size_than_the_images",
        "jobs/tile/test_tile_classes.py::test_a_value_that_is_no_class_is_refused_by_name",
    ],
    "misleading answers": [
        "labels/test_vector_file.py::test_a_geodatabase_is_a_folder_that_is_one_file",
        "labels/test_vector_file.py::test_it_is_read_through_the_extra",
        "labels/test_vector_file.py::test_a_shapefile_without_codepage",
        "labels/test_vector_file.py::test_topojson_is_in_degrees_unless_it_cannot_be",
        "tables/test_real_twins.py::test_labels_on_a_server_are_those_of_the_file",
    ],
}


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("table", [LABELS, IMAGERY, SILENT], ids=["labels", "imagery", "silent errors"])
def test_every_row_is_held_by_tests_that_are_there(table: dict[str, list[str]]) -> None:
    named = [test for tests in table.values() for test in tests]
    assert all(table.values())
    gone = [test for test in named if test.partition("::")[2] not in names_in(ROOT / test.partition("::")[0])]
    assert gone == []
