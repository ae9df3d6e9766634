"""Reads exports as the tools that they are for would. Prints nothing that is not asked for; fails with a traceback.

Usage: har SCHEMA FILE | ocsf SCHEMA FILE | parquet FILE
"""
import json
import sys


def har(schema, path):
    import jsonschema

    archive = json.load(open(path))
    checker = jsonschema.Draft6Validator(json.load(open(schema)), format_checker=jsonschema.FormatChecker())
    checker.validate(archive)
    for entry in archive["log"]["entries"]:
        parts = [part for part in entry["timings"].values() if part >= 0]
        assert abs(sum(parts) - entry["time"]) < 0.001, entry
        assert entry["pageref"] in [page["id"] for page in archive["log"]["pages"]]


def ocsf(schema, path):
    import jsonschema

    published = json.load(open(schema))
    for line in open(path):
        event = json.loads(line)
        number = str(event["class_uid"])
        one = dict(published["classes"][number], **{"$defs": published["$defs"]})
        checker = jsonschema.Draft202012Validator(one)
        errors = [f"{'/'.join(map(str, error.path))}: {error.message}" for error in checker.iter_errors(event)]
        assert not errors, (errors, line)
        assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"], line
        for name, (sibling, captions) in published["siblings"][number].items():
            if name not in event:
                continue
            caption = captions[str(event[name])]
            # 99 is "Other": its sibling says in the source's words what it is.
            assert sibling in event and (event[name] == 99 or event[sibling] == caption), (name, line)


def parquet(path):
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    types = {field.name: str(field.type) for field in table.schema}
    print(json.dumps({"types": types, "rows": [
        {name: value.isoformat() if name == "time" else value for name, value in row.items() if value is not None}
        for row in table.to_pylist()
    ]}))


{"har": har, "ocsf": ocsf, "parquet": parquet}[sys.argv[1]](*sys.argv[2:])
