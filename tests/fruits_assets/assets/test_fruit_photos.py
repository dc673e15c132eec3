"""An observation of `fruit_photos` says what it found beside photos, and which names need a look."""

from typing import Any

from tests.fruits_assets.dagster_platform import Platform, log_messages


def observed(platform: Platform, *paths: str) -> tuple[list[str], list[str], dict[str, Any]]:
    """The messages of an observation of files at these paths, its warnings, and its metadata."""
    for path in paths:
        file = platform.photos / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"content")
    result = platform.observe()
    # The summary is the last event, so that the page of the asset shows it.
    [event] = result.filter_events(lambda event: event.event_type_value == "ASSET_OBSERVATION")[-1:]
    metadata = event.asset_observation_data.asset_observation.metadata
    return (
        log_messages(platform, result, "INFO"),
        log_messages(platform, result, "WARNING"),
        {name: value.value for name, value in metadata.items()},
    )


def test_files_beside_photos_are_counted_by_kind(untouched: Platform) -> None:
    files = ["Kiwi/1.jpg", "Kiwi/1.xml", "Kiwi/2.xml", "Kiwi/IMG_1.MOV", "Kiwi/Thumbs.db", "labels.csv"]
    messages, warnings, metadata = observed(untouched, *files)
    said = "Skipped files that lie beside photos: files of the system (1), films (1), notes and data (3)."
    assert said in messages
    assert warnings == []
    assert metadata["companions"] == {"files of the system": 1, "films": 1, "notes and data": 3}
    assert (metadata["photos"], metadata["classes"]) == (1, 1)


def test_classes_of_several_folders_are_named(untouched: Platform) -> None:
    messages, warnings, _ = observed(untouched, "train/Mangue/1.jpg", "test/Mangue/1.jpg", "train/Fig/1.jpg")
    assert "Classes of several folders: 1 (Mangue: 2 folders)." in messages
    assert warnings == []


def test_names_that_look_alike_are_warned_of_together(untouched: Platform) -> None:
    _, warnings, _ = observed(untouched, "Apple/1.jpg", "apple /1.jpg", "Fig/1.jpg")
    [warning] = warnings
    assert warning.startswith("These class names look alike: 'Apple', 'apple '. ")


def test_classes_that_are_only_the_parts_of_a_data_set_are_warned_of(untouched: Platform) -> None:
    _, [warning], _ = observed(untouched, "train/1.jpg", "test/1.jpg")
    assert warning.startswith("The only classes are test, train. ")


def test_an_invisible_character_does_not_reach_the_terminal(untouched: Platform) -> None:
    _, warnings, _ = observed(untouched, "Fig/1.jpg", "\u202eiwiK/1.jpg")
    [warning] = warnings
    assert "'\\u202eiwiK'" in warning
    assert "U+202E" in warning


def test_a_folder_of_notes_alone_is_no_class(untouched: Platform) -> None:
    _, _, metadata = observed(untouched, "Fig/1.jpg", "Notes/1.txt")
    assert metadata["new_classes"] == ["Fig"]
