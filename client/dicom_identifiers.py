"""Elements of a DICOM header that can tell who somebody is: a list after PS3.15.

The most common elements of PS3.15 table E.1-1 (Basic Application Level Confidentiality Profile)
that hold text, ids or dates. UIDs are in that table too; every file has them, so they are no
finding here. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

DIRECT: Mapping[int, str] = {
    0x00080050: "AccessionNumber",
    0x00080090: "ReferringPhysicianName",
    0x00080092: "ReferringPhysicianAddress",
    0x00080094: "ReferringPhysicianTelephoneNumbers",
    0x00081048: "PhysiciansOfRecord",
    0x00081050: "PerformingPhysicianName",
    0x00081060: "NameOfPhysiciansReadingStudy",
    0x00081070: "OperatorsName",
    0x00100010: "PatientName",
    0x00100020: "PatientID",
    0x00100021: "IssuerOfPatientID",
    0x00100030: "PatientBirthDate",
    0x00100032: "PatientBirthTime",
    0x00100050: "PatientInsurancePlanCodeSequence",
    0x00101000: "OtherPatientIDs",
    0x00101001: "OtherPatientNames",
    0x00101002: "OtherPatientIDsSequence",
    0x00101005: "PatientBirthName",
    0x00101040: "PatientAddress",
    0x00101060: "PatientMotherBirthName",
    0x00101080: "MilitaryRank",
    0x00101090: "MedicalRecordLocator",
    0x00102154: "PatientTelephoneNumbers",
    0x00102155: "PatientTelecomInformation",
    0x001021F0: "PatientReligiousPreference",
    0x00102297: "ResponsiblePerson",
    0x00321032: "RequestingPhysician",
    0x00380010: "AdmissionID",
    0x00380300: "CurrentPatientLocation",
    0x00380400: "PatientInstitutionResidence",
    0x00402016: "PlacerOrderNumberImagingServiceRequest",
    0x00402017: "FillerOrderNumberImagingServiceRequest",
    0x0040A123: "PersonName",
    0x40080114: "PhysicianApprovingInterpretation",
}
"""Names, numbers and places of a person: tag to keyword."""

INDIRECT: Mapping[int, str] = {
    0x00080020: "StudyDate",
    0x00080021: "SeriesDate",
    0x00080022: "AcquisitionDate",
    0x00080023: "ContentDate",
    0x0008002A: "AcquisitionDateTime",
    0x00080030: "StudyTime",
    0x00080031: "SeriesTime",
    0x00080032: "AcquisitionTime",
    0x00080033: "ContentTime",
    0x00080080: "InstitutionName",
    0x00080081: "InstitutionAddress",
    0x00081010: "StationName",
    0x00081030: "StudyDescription",
    0x0008103E: "SeriesDescription",
    0x00081040: "InstitutionalDepartmentName",
    0x00081080: "AdmittingDiagnosesDescription",
    0x00101010: "PatientAge",
    0x00101020: "PatientSize",
    0x00101030: "PatientWeight",
    0x00102110: "Allergies",
    0x00102160: "EthnicGroup",
    0x00102180: "Occupation",
    0x001021B0: "AdditionalPatientHistory",
    0x001021C0: "PregnancyStatus",
    0x00104000: "PatientComments",
    0x00181000: "DeviceSerialNumber",
    0x00181030: "ProtocolName",
    0x00184000: "AcquisitionComments",
    0x00200010: "StudyID",
    0x00204000: "ImageComments",
    0x00321060: "RequestedProcedureDescription",
    0x00324000: "StudyComments",
    0x00400244: "PerformedProcedureStepStartDate",
    0x00400245: "PerformedProcedureStepStartTime",
    0x00400253: "PerformedProcedureStepID",
    0x00400254: "PerformedProcedureStepDescription",
    0x00401001: "RequestedProcedureID",
}
"""What tells of a person together with other knowledge: tag to keyword."""
