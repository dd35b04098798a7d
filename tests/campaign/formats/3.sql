BEGIN TRANSACTION;
CREATE TABLE queries (
        number INTEGER PRIMARY KEY, constraints TEXT NOT NULL, engine TEXT NOT NULL, seed INTEGER NOT NULL, at REAL NOT NULL
    );
INSERT INTO "queries" VALUES(1,'["macs<1M"]','mads',4,11.0);
CREATE TABLE retrained (
        query INTEGER NOT NULL, rank INTEGER NOT NULL, clock TEXT NOT NULL, slot TEXT NOT NULL, val_accuracies TEXT NOT NULL,
        test_accuracies TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (query, rank, clock, slot),
        FOREIGN KEY (query, rank) REFERENCES winners (query, rank)
    );
INSERT INTO "retrained" VALUES(1,1,'{"train_steps": 9}','{"device": "cpu", "threads": 1, "workers": 2}','[0.5]','[0.4]',12.0);
CREATE TABLE rounds (number INTEGER PRIMARY KEY, trials INTEGER NOT NULL, rank_correlation REAL, ended_at REAL NOT NULL);
INSERT INTO "rounds" VALUES(1,2,0.25,10.0);
CREATE TABLE specification (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "specification" VALUES('data','{"source": "digits", "train_images": null, "val_images": null, "image_size": null, "seed": 4}');
INSERT INTO "specification" VALUES('clock','{"train_steps": 9}');
INSERT INTO "specification" VALUES('seed','4');
INSERT INTO "specification" VALUES('rounds','2');
INSERT INTO "specification" VALUES('batch','3');
INSERT INTO "specification" VALUES('top','5');
INSERT INTO "specification" VALUES('engine','"mads"');
INSERT INTO "specification" VALUES('early_stop','null');
INSERT INTO "specification" VALUES('confirm','0');
INSERT INTO "specification" VALUES('objective','"max accuracy"');
INSERT INTO "specification" VALUES('measure','[]');
INSERT INTO "specification" VALUES('real','false');
INSERT INTO "specification" VALUES('repeats','1');
INSERT INTO "specification" VALUES('prior','"def"');
INSERT INTO "specification" VALUES('fingerprint','"abc"');
INSERT INTO "specification" VALUES('input_shape','[1, 8, 8]');
INSERT INTO "specification" VALUES('classes','["cat", "\u00d6l"]');
INSERT INTO "specification" VALUES('space','"format = 1"');
INSERT INTO "specification" VALUES('constraints','["macs<1M"]');
INSERT INTO "specification" VALUES('start','[]');
INSERT INTO "specification" VALUES('slot','{"device": "cpu", "threads": 1, "workers": 2}');
INSERT INTO "specification" VALUES('created_at','8.0');
CREATE TABLE "trials" (number INTEGER PRIMARY KEY, round INTEGER NOT NULL, identity TEXT NOT NULL UNIQUE, candidate TEXT NOT NULL, seed INTEGER NOT NULL, predicted REAL, std REAL, asked_at REAL NOT NULL, ended_at REAL, observation TEXT);
INSERT INTO "trials" VALUES(1,1,'a','{"architecture": {"network": "resnet9", "width": 4}, "recipe": {"optimizer": "sgd", "flip": true}}',10001,NULL,NULL,0.0,9.0,'{"accuracy": 0.5, "balanced_accuracy": 0.4375, "fraction": 0.875, "seconds": 1.25, "steps": 20, "images_per_second": 512.5, "failure": null, "curve": [[0.25, 0.5, 5, 0.125]]}');
INSERT INTO "trials" VALUES(2,1,'b','{"architecture": {"width": 6}, "recipe": {"learning_rate": 0.1}}',10002,0.75,0.125,0.0,NULL,NULL);
CREATE TABLE winners (
        query INTEGER NOT NULL REFERENCES queries (number), rank INTEGER NOT NULL, candidate TEXT NOT NULL,
        predicted REAL NOT NULL, std REAL NOT NULL, accuracy REAL, costs TEXT NOT NULL, PRIMARY KEY (query, rank)
    );
INSERT INTO "winners" VALUES(1,1,'{"architecture": {"network": "resnet9", "width": 4}, "recipe": {"optimizer": "sgd", "flip": true}}',0.9,0.05,NULL,'{"macs": 1000}');
COMMIT;
PRAGMA user_version = 3;
