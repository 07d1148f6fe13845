"""Write the sample PDF, smart_rag/samples/engineering_report.pdf.

The text is kept in this script.  Built-in fonts and a fixed creation date
make the file the same each time it is written with the same fpdf2 version.

    python tools/make_sample_pdf.py [output.pdf]
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from fpdf import FPDF

TITLE = "Engineering Report: Second Half-Year"
SUBTITLE = "Tarnholm Field Station, Vessay. Prepared by Tobias Renn, station engineer."

# One entry per page: a list of (heading, paragraphs).
PAGES = [
    [
        (
            "1. Summary",
            [
                "This report covers the technical work at the station from July to December. It is written for the "
                "Trust, for the station meeting and for whoever stands in for me when I am on leave. The most important "
                "matters are the high running hours of the generators, the state of the slip and the age of the "
                "desalination membranes. Nothing in the report calls for the station to be closed, but two of the items "
                "will not last another winter without being replaced.",
                "Power was available for 99.6 per cent of the time. There were five interruptions, the longest of which "
                "lasted fifty-two minutes on the night of 19 November, when the battery inverter shut down after a fault "
                "message that the maker has not yet been able to explain. Fresh water was rationed on eleven days. The "
                "boats lost nine working days through defects, compared with fourteen in the same months of last year.",
            ],
        ),
        (
            "2. Staff and cover",
            [
                "I was supported by two seasonal technicians until the end of September. Since October the duty rota "
                "has been shared between Owen Castellane, Petra Sandvoll and myself, one week in three. The duty engineer "
                "carries the pager, walks round at 08:00 and 21:00 and writes down the readings on the yellow sheet. "
                "People new to the rota go round with me twice. Whoever leaves the island while on duty has to hand the "
                "pager over in person.",
                "Contractors came on six occasions: the lift inspector, the refrigeration firm from Balloan (twice), the "
                "solar installer, the divers who examined the seawater intake, and the man who sweeps the chimney. "
                "Contractors sleep in room 3, and should be met at the pier.",
            ],
        ),
    ],
    [
        (
            "3. Generators",
            [
                "Generator 1 ran for 1,212 hours and generator 2 for 1,378 hours. Both had oil and filter changes every "
                "250 hours. Consumption was 3.4 kilowatt hours per litre, which is about what the maker promises for sets "
                "of this age. Generator 1 is due for a full overhaul at 12,000 hours; it will get there in about "
                "fourteen months. The cost is put at 9,500 if we do it ourselves.",
                "In August generator 2 began to hunt, its speed swinging by forty revolutions. I cleaned the actuator and "
                "changed the fuel lift pump without success. In the end the fault was a loose earth on the governor plate, "
                "and it took ten minutes to put right after three days of searching. Generator 1 was hard to start "
                "in the cold. The glow plugs were measured, and those of cylinders 2 and 3 replaced. If a set does not "
                "start at the third attempt, leave it for five minutes to let the starter cool down.",
            ],
        ),
        (
            "4. Fuel",
            [
                "We took delivery of 18,000 litres of diesel in two lots. The main tank holds 12,000 litres. The tanker "
                "lorry comes by ferry and needs a dry track, so that no delivery can be counted on between December and "
                "February. The gauge on the tank reads about five per cent too high; use the dipstick for ordering. "
                "The bund under the tank collected rain, was pumped out three times and is clean.",
                "The day tank is filled by hand each morning. The transfer pump's float switch stuck once and forty "
                "litres went over into the bund. I fitted a timer which stops the pump after six minutes. The lock of the "
                "fuel store was stiff and has been replaced. Diesel samples were sent away in October because of dark "
                "filters: there was some growth of bacteria, and the tank was treated with biocide.",
            ],
        ),
    ],
    [
        (
            "5. Solar array and battery",
            [
                "The array gave 14,900 kilowatt hours in the half-year, three per cent less than the mean of five "
                "years. The two panels cracked in last winter's storm have been replaced, and a net keeps stones off the "
                "bottom row. Salt on the glass costs about four per cent in a dry fortnight. The panels may be washed with "
                "water from the burn and a soft brush, early in the morning before they are warm.",
                "The battery has kept 91 per cent of its first capacity. Module 14 became warmer than its neighbours and "
                "was exchanged under guarantee. The room should be between 10 and 25 degrees, and the fan filter is now "
                "changed quarterly. Nobody may work alone at the battery, and the insulated tools stay in the room.",
            ],
        ),
        (
            "6. Desalination and water",
            [
                "The plant produced 412 cubic metres. The pressure needed has crept up from 52 to 58 bar, which tells us "
                "that the membranes are getting tired. They are six years old, and a set costs 3,300 with a delivery time "
                "of eight weeks. The cartridges of the pre-filter, five micrometres, were changed every three weeks, and "
                "weekly during the August plankton bloom. The high-pressure pump was given new seals in September.",
                "The seawater intake was blocked with kelp on 6 October after the first gale. The divers cut it free and "
                "fitted a wider basket. The bearings of the intake pump had been noisy for a long while and were changed "
                "at the same time: they are of the type 6205-2RS, and two are kept in the workshop, in the drawer "
                "with the alternator brushes. The ultraviolet lamp for the drinking water has been in use for "
                "8,000 hours and will be replaced in January. Chlorine is not used, apart from the yearly cleaning of "
                "the tanks.",
            ],
        ),
    ],
    [
        (
            "7. Buildings",
            [
                "The roof of the Laboratory Wing was leaking above the balance room. The flashing was lifted by the wind "
                "and has been fixed with longer screws. In the Main House eleven windows were painted on the "
                "weather side. The damp in room 9 comes from a cracked gutter, which is to be replaced when the scaffold "
                "is here in spring. Mice got into the dry store through a pipe hole; it has been closed with wire wool "
                "and mortar, and Hamish has seen none since.",
                "The heat pump used 22,700 kilowatt hours, with a mean factor of 2.9. It ices up in damp weather just "
                "above freezing, when the thaw cycle comes every forty minutes. This is normal. The smoke detectors in the "
                "bedrooms are ten years old and were all replaced in November. The fire extinguishers were inspected on "
                "8 September. The bell at the Boat Shed could not be heard over the compressor, so a "
                "flashing light has been added.",
            ],
        ),
        (
            "8. Boats and slip",
            [
                "The engines of Merganser had their 1,000-hour service in July. A new impeller was fitted on the port "
                "side, the third in two years; I suspect the housing, and have ordered one. The hydraulic hose of the "
                "A-frame was changed after it started to sweat. Dunlin had a new propeller after touching a rock, and one "
                "of her tubes was patched. The trailer's brakes were seized by salt and have been rebuilt.",
                "The contractor's barge did not come in May as had been agreed. It came in the first week of September and "
                "the low-water end of the slip was cast again with sixteen cubic metres of concrete. Salt-resistant "
                "reinforcement was used. The winch on the slip is inspected by the lift inspector; its next date is "
                "14 June.",
            ],
        ),
    ],
    [
        (
            "9. Closing down for winter",
            [
                "With seven people in residence, the upper floor of the Main House is shut from 1 November until the end "
                "of March. Drain the pipes by opening the cock under the stair and all the taps, and pour half a cup of "
                "antifreeze into each trap. Leave the doors of the rooms open to keep them aired. The outside tap at the "
                "slip is wrapped and the hose taken in. The summer cabin is locked and its gas bottle carried to the "
                "Boat Shed. Turn off the heating in the library, but leave the dehumidifier on.",
                "The keys for winter are set out as follows. The Boat Shed is on the hook board. The summer cabin is with "
                "Hamish. A spare for the fuel store hangs behind the barometer in the hall, since the duty engineer "
                "was locked out twice last year. The museum's key goes back to the shop. The mast enclosure needs none "
                "while the gate is frozen open. Shutters on the west side are closed when a gale of force 9 or more is "
                "forecast, and the flag is taken down.",
                "The tractor is parked facing downhill, because its battery is weak in frost. Snow is cleared first from "
                "the track to the Generator House, then from the turning place of the van. Grit is in the bin by the "
                "flagpole. The van has its winter tyres from the middle of October and a shovel in the back.",
            ],
        ),
        (
            "10. Spare parts",
            [
                "The stock list was checked in December. We are short of V-belts for the compressor, fuses of 63 amperes "
                "and hose clamps in stainless steel. Orders to the chandler in Corrin placed before 11:00 on a Wednesday "
                "arrive with the Thursday freight. Parts for the heat pump come from abroad and take up to seven weeks.",
            ],
        ),
    ],
    [
        (
            "11. Plans for the coming half-year",
            [
                "In January and February: replace the ultraviolet lamp, service the lifejackets together with Petra, "
                "rebuild the port cooling-water housing on Merganser and paint the workshop floor. In March: test the "
                "fume cupboard, exchange the desalination membranes if the Trust agrees to the cost, and train one more "
                "person for the duty rota. In April: scaffold on the Main House, new gutter, and inspection of the "
                "moorings with the divers. In May: tanks to be cleaned, and the sewage tank emptied.",
                "I ask the Trust to decide on three purchases. First, new membranes for 3,300. Second, a battery extension "
                "of 60 kilowatt hours for 21,000, which would save some 400 generator hours a year and pay for itself in "
                "about six years. Third, a small quad bike with a trailer for 5,200, to take the place of the tractor for "
                "light carrying. If there is only money for one, it should be the membranes.",
            ],
        ),
        (
            "12. Thanks",
            [
                "My thanks go to Petra Sandvoll for three nights in the Generator House in November, to Owen Castellane "
                "for the water tests, and to Lachlan Bree, who pulled the van out of the ditch on 4 December and would "
                "take nothing for it but a bottle of whisky. The inverter maker's help desk was friendly throughout.",
            ],
        ),
    ],
]


class Report(FPDF):
    def footer(self):
        self.set_y(-15)
        self.set_font("Helvetica", "I", 8)
        self.cell(0, 8, f"Tarnholm Field Station - Engineering Report - page {self.page_no()}", align="C")


def make(path):
    pdf = Report(format="A4")
    pdf.set_creation_date(datetime(2024, 1, 15, 12, 0, 0, tzinfo=UTC))
    pdf.set_title(TITLE)
    pdf.set_author("Tarnholm Field Station")
    pdf.set_margins(22, 20, 22)
    pdf.set_auto_page_break(True, margin=20)
    for number, sections in enumerate(PAGES, start=1):
        pdf.add_page()
        if number == 1:
            pdf.set_font("Helvetica", "B", 18)
            pdf.multi_cell(0, 9, TITLE, align="L", new_x="LMARGIN", new_y="NEXT")
            pdf.set_font("Helvetica", "I", 10)
            pdf.multi_cell(0, 6, SUBTITLE, align="L", new_x="LMARGIN", new_y="NEXT")
            pdf.ln(4)
        for heading, paragraphs in sections:
            pdf.set_font("Helvetica", "B", 13)
            pdf.multi_cell(0, 8, heading, align="L", new_x="LMARGIN", new_y="NEXT")
            pdf.set_font("Times", "", 11)
            for text in paragraphs:
                pdf.multi_cell(0, 5.5, text, align="L", new_x="LMARGIN", new_y="NEXT")
                pdf.ln(2)
            pdf.ln(2)
        if pdf.page_no() != number:
            raise SystemExit(f"the text of page {number} does not fit on one page")
    pdf.output(str(path))


if __name__ == "__main__":
    default = Path(__file__).resolve().parent.parent / "smart_rag" / "samples" / "engineering_report.pdf"
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    make(target)
    print(f"wrote {target.name}, {target.stat().st_size} bytes")
